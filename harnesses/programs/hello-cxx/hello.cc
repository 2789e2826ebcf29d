#include <algorithm>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct Loud {
    const char *name;
    ~Loud() { std::cout << "destroyed " << name << "\n"; }
};

static int risky(int n)
{
    Loud loud { "while unwinding" };
    if (n > 2)
        throw std::out_of_range("too large");
    return n;
}

int main()
{
    std::map<std::string, int> words { { "one", 1 }, { "two", 2 }, { "three", 3 } };
    for (auto &[word, number] : words)
        std::cout << word << " is " << number << "\n";
    try {
        risky(1);
        risky(3);
    } catch (const std::exception &error) {
        std::cout << "caught: " << error.what() << "\n";
    }
    std::vector<std::thread> threads;
    std::mutex mutex;
    long total = 0;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&, i] {
            std::vector<int> numbers(1000);
            std::iota(numbers.begin(), numbers.end(), i);
            std::lock_guard<std::mutex> guard(mutex);
            total += std::accumulate(numbers.begin(), numbers.end(), 0L);
        });
    for (auto &thread : threads)
        thread.join();
    std::cout << "total " << total << std::endl;
    {
        std::ofstream file("words");
        for (auto &[word, number] : words)
            file << word << " " << number << "\n";
    }
    std::ifstream file("words");
    std::string line;
    while (std::getline(file, line))
        std::cout << "read: " << line << "\n";
    try {
        std::string(5, 'x').at(9);
    } catch (const std::out_of_range &) {
        std::cout << "the library throws, too\n";
    }
    std::cerr << "done\n";
    return 3;
}
