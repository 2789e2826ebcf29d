//! Deadlines: of many replicas on one thread, of threads at once, of forked processes, and beside
//! signals that mean nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use unifork_vmm::{Engine, Outcome, Replica};

use crate::common::{DEADLINE, fork, frozen, kvm};
use crate::interpreter::{self, Op, Program};

const SHORT: Duration = Duration::from_millis(10);
/// How late a deadline may be noticed on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

fn forever() -> Vec<u8> {
    Program::new(&[(Op::Forever, [0; 3])]).bytes()
}

fn done() -> Vec<u8> {
    Program::new(&[]).bytes()
}

/// Runs what never ends, and what ends.
fn times_out_and_goes_on(fork: &mut Replica) {
    let started = Instant::now();
    assert_eq!(fork.run(&forever(), SHORT).unwrap(), Outcome::Timeout);
    let took = started.elapsed();
    assert!(took >= SHORT && took < SHORT + SLACK, "{took:?}");
    assert_eq!(fork.run(&done(), DEADLINE).unwrap(), Outcome::Done { code: 0 });
}

#[test]
fn many_replicas_on_one_thread_time_out_one_after_the_other() {
    let snapshot = frozen(interpreter::code());
    let kvm = kvm();
    let mut forks: Vec<_> =
        (0..10).map(|_| Replica::spawn(&kvm, &snapshot, Engine::HotSet).unwrap()).collect();
    let started = Instant::now();
    for _ in 0..5 {
        forks.iter_mut().for_each(times_out_and_goes_on);
    }
    println!("50 deadlines of {SHORT:?} in {:?}", started.elapsed());
}

#[test]
fn replicas_of_two_threads_do_not_feel_each_others_deadlines() {
    let snapshot = frozen(interpreter::code());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut fork = Replica::spawn(&kvm(), &snapshot, Engine::DirtyLog).unwrap();
            let mut runs = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(fork.run(&done(), DEADLINE).unwrap(), Outcome::Done { code: 0 });
                runs += 1;
            }
            runs
        });
        let mut fork = Replica::spawn(&kvm(), &snapshot, Engine::HotSet).unwrap();
        for _ in 0..20 {
            times_out_and_goes_on(&mut fork);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(busy.join().unwrap() > 0);
    });
}

#[test]
fn a_replica_may_move_to_another_thread_between_runs() {
    let mut fork = fork(interpreter::code(), Engine::HotSet);
    for _ in 0..4 {
        times_out_and_goes_on(&mut fork);
        fork = thread::spawn(move || {
            times_out_and_goes_on(&mut fork);
            fork
        })
        .join()
        .unwrap();
    }
}

#[test]
fn a_deadline_near_the_length_of_a_run_gives_one_outcome_or_the_other_and_no_aftermath() {
    let mut fork = fork(interpreter::code(), Engine::HotSet);
    for i in 0..400 {
        let deadline = Duration::from_micros(i * 5);
        let outcome = fork.run(&done(), deadline).unwrap();
        assert!(matches!(outcome, Outcome::Done { code: 0 } | Outcome::Timeout), "{outcome:?}");
        assert_eq!(fork.run(&done(), DEADLINE).unwrap(), Outcome::Done { code: 0 }, "after {deadline:?}");
    }
}

/// The watchdog's signal may come late, for a deadline that has been met meanwhile.
#[test]
fn signals_that_mean_nothing_change_nothing() {
    let mut fork = fork(interpreter::code(), Engine::HotSet);
    // SAFETY: the call has no precondition.
    let process = unsafe { libc::getpid() };
    // SAFETY: the call has no precondition.
    let thread = unsafe { libc::gettid() };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: the thread is alive, and the signal has a handler since the fork was made.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGRTMIN() + 4) };
                thread::sleep(Duration::from_micros(150));
            }
        });
        for _ in 0..300 {
            assert_eq!(fork.run(&done(), DEADLINE).unwrap(), Outcome::Done { code: 0 });
        }
        times_out_and_goes_on(&mut fork);
        stop.store(true, Ordering::Relaxed);
    });
}

/// A child has its parent's memory, but not its watchdog.
#[test]
fn a_forked_process_has_deadlines_of_its_own() {
    let mut mine = fork(interpreter::code(), Engine::HotSet);
    times_out_and_goes_on(&mut mine);
    for _ in 0..5 {
        // SAFETY: the child makes a machine of its own, and leaves by `_exit` without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let went_well = std::panic::catch_unwind(|| {
                times_out_and_goes_on(&mut fork(interpreter::code(), Engine::HotSet));
            });
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(went_well.is_err())) };
        }
        let started = Instant::now();
        let mut status = 0;
        loop {
            // SAFETY: `status` is writable, `child` is ours.
            let waited = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
            if waited == child {
                break;
            }
            if started.elapsed() > 3 * DEADLINE {
                // SAFETY: `child` is ours and has not been waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
                panic!("the child never came back");
            }
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(status, 0);
        times_out_and_goes_on(&mut mine);
    }
}
