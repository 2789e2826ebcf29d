// TinyXML: the input is an XML document, parsed, walked and printed again.
//
// In C++, so it is linked with static glibc and libstdc++; also the example of a C++ harness.
#include <cstddef>
#include <cstdint>
#include <string>

#include "tinyxml.h"

namespace {

constexpr std::size_t kInputBytesMax = 4096;

// Follows every kind of link between nodes, and reads every attribute in each of its types.
class Walker : public TiXmlVisitor {
public:
    bool VisitEnter(const TiXmlElement &element, const TiXmlAttribute *first) override
    {
        for (const TiXmlAttribute *attribute = first; attribute != nullptr; attribute = attribute->Next()) {
            int integer = 0;
            double real = 0;
            attribute->QueryIntValue(&integer);
            attribute->QueryDoubleValue(&real);
            element.Attribute(attribute->Name());
        }
        text_bytes_ += element.GetText() != nullptr ? std::string(element.GetText()).size() : 0;
        return element.FirstChildElement("stop") == nullptr;
    }

    bool Visit(const TiXmlText &text) override
    {
        text_bytes_ += text.ValueStr().size();
        return true;
    }

private:
    std::size_t text_bytes_ = 0;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)
{
    if (size > kInputBytesMax)
        return -1;
    const std::string text(reinterpret_cast<const char *>(data), size);
    TiXmlDocument document;
    document.Parse(text.c_str(), nullptr, TIXML_ENCODING_UNKNOWN);

    Walker walker;
    document.Accept(&walker);
    TiXmlPrinter printer;
    document.Accept(&printer);
    return 0;
}
