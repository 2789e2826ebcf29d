// Crashes in C++'s own ways. The tests know who calls whom here.
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define BARRIER() __asm__ volatile("" ::: "memory")
#define NOINLINE __attribute__((noinline))

namespace shapes {

struct Shape {
    virtual ~Shape() = default;
    virtual int area(int scale) const = 0;
};

template <typename T> struct Square final : Shape {
    T *side = nullptr;
    NOINLINE int area(int scale) const override {
        int result = *side * scale;
        BARRIER();
        return result;
    }
};

NOINLINE static int total(const std::vector<std::unique_ptr<Shape>> &all) {
    int sum = 0;
    for (const auto &shape : all) {
        sum += shape->area(2);
        BARRIER();
    }
    return sum;
}

} // namespace shapes

NOINLINE static void complain(const std::string &text) {
    BARRIER();
    throw std::runtime_error(text);
}

int main(int argc, char **argv) {
    if (argc > 1 && !std::strcmp(argv[1], "throw")) {
        complain(argv[1]);
    }
    if (argc > 1 && !std::strcmp(argv[1], "lambda")) {
        int *volatile nowhere = nullptr;
        auto f = [](int *p) NOINLINE { *p = 1; BARRIER(); };
        f(nowhere);
    }
    std::vector<std::unique_ptr<shapes::Shape>> all;
    all.push_back(std::make_unique<shapes::Square<int>>());
    int sum = shapes::total(all);
    BARRIER();
    return sum;
}
