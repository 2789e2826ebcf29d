//! Which image a campaign's folder belongs to: `image.json` in it.
//!
//! A corpus of one program is of little use to another, and its findings are another's. So a folder is
//! continued with an image of the same name only; that one may have been built anew.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unifork_vmm::regular;

use crate::output::{self, Output, OutputError};

/// The file.
const FILE: &str = "image.json";

/// What is remembered of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    image: PathBuf,
    snapshot: String,
}

/// Why a folder is not continued.
#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    /// It belongs to another image.
    #[error("{} is the campaign of {}, not of {}", folder.display(), theirs.display(), ours.display())]
    Another {
        /// The folder.
        folder: PathBuf,
        /// The image it belongs to.
        theirs: PathBuf,
        /// The one that was given.
        ours: PathBuf,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Makes `output` the folder of the campaign of `image`, whose machine is `snapshot`. Says so if the image
/// has changed since.
pub(crate) fn claim(output: &Output, image: &Path, snapshot: &str) -> Result<Option<String>, IdentityError> {
    let path = output.path(FILE);
    let image = std::path::absolute(image).unwrap_or_else(|_| image.to_path_buf());
    let ours = Identity { image, snapshot: snapshot.to_owned() };
    let text = regular::read(&path).ok();
    let theirs: Option<Identity> = text.as_deref().and_then(|text| serde_json::from_slice(text).ok());
    let mut note = None;
    if text.is_some() && theirs.is_none() {
        note = Some(format!(
            "{} is damaged and does not say which image this is the campaign of; from now on it is that of {}",
            path.display(),
            ours.image.display()
        ));
    }
    if let Some(theirs) = theirs {
        if theirs == ours {
            return Ok(None);
        }
        if theirs.image.file_stem() != ours.image.file_stem() {
            return Err(IdentityError::Another {
                folder: output.root().to_path_buf(),
                theirs: theirs.image,
                ours: ours.image,
            });
        }
        if theirs.snapshot != ours.snapshot {
            note = Some(format!(
                "{} or its machine has changed since this campaign was last run; its inputs are run again, its \
                 findings are kept as they are (`unifork triage` says which of them still happen)",
                ours.image.display()
            ));
        }
    }
    let text = serde_json::to_vec_pretty(&ours).expect("it is plain data");
    output::write_whole(&path, &text)?;
    Ok(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_to_images_of_one_name_and_a_change_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::open(dir.path()).unwrap();
        let claim = |image: &str, snapshot: &str| claim(&output, Path::new(image), snapshot);
        assert_eq!(claim("/a/x.img", "1").unwrap(), None);
        assert_eq!(claim("/a/x.img", "1").unwrap(), None);
        assert_eq!(claim("/b/x.snap", "1").unwrap(), None, "the same machine, elsewhere");
        assert!(claim("/b/x.img", "2").unwrap().unwrap().contains("/b/x.img or its machine has changed"));
        assert_eq!(claim("/b/x.img", "2").unwrap(), None, "it is said once");
        let refused = claim("/b/y.img", "2").unwrap_err().to_string();
        assert!(refused.ends_with("is the campaign of /b/x.img, not of /b/y.img"), "{refused}");
        std::fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert!(claim("/b/y.img", "2").unwrap().unwrap().contains("image.json is damaged"));
        assert_eq!(claim("/b/y.img", "2").unwrap(), None);
    }
}
