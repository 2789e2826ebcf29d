/* kernels [ROUNDS]: what each computes is printed bit by bit, and is the same whichever instructions did it. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 4096

static double x[N], y[N], z[N];

static uint64_t bits(const double *values, int count)
{
    uint64_t sum = 1469598103934665603ULL;
    for (int i = 0; i < count; i++) {
        uint64_t word;
        memcpy(&word, &values[i], 8);
        sum = (sum ^ word) * 1099511628211ULL;
    }
    return sum;
}

static void fill(void)
{
    uint32_t state = 12345;
    for (int i = 0; i < N; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (double)(state >> 8) / (1 << 24) - 0.5;
        y[i] = sin(i * 0.01) * x[i];
    }
}

static void plain(double a)
{
    for (int i = 0; i < N; i++)
        z[i] = a * x[i] + y[i];
}

static void sse2(double a)
{
    __m128d factor = _mm_set1_pd(a);
    for (int i = 0; i < N; i += 2)
        _mm_storeu_pd(z + i, _mm_add_pd(_mm_mul_pd(factor, _mm_loadu_pd(x + i)), _mm_loadu_pd(y + i)));
}

__attribute__((target("avx"))) static void avx(double a)
{
    __m256d factor = _mm256_set1_pd(a);
    for (int i = 0; i < N; i += 4)
        _mm256_storeu_pd(z + i, _mm256_add_pd(_mm256_mul_pd(factor, _mm256_loadu_pd(x + i)), _mm256_loadu_pd(y + i)));
}

static double dot(void)
{
    __m128d sum = _mm_setzero_pd();
    for (int i = 0; i < N; i += 2)
        sum = _mm_add_pd(sum, _mm_mul_pd(_mm_loadu_pd(x + i), _mm_loadu_pd(y + i)));
    double halves[2];
    _mm_storeu_pd(halves, sum);
    return halves[0] + halves[1];
}

static double matrices(int n)
{
    static double a[64][64], b[64][64], c[64][64];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            a[i][j] = x[i * n + j], b[i][j] = y[j * n + i], c[i][j] = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            for (int j = 0; j < n; j++)
                c[i][j] += a[i][k] * b[k][j];
    double trace = 0;
    for (int i = 0; i < n; i++)
        trace += c[i][i];
    return trace;
}

static uint64_t primes(int below)
{
    static unsigned char composite[1 << 20];
    memset(composite, 0, sizeof composite);
    uint64_t sum = 0;
    for (int i = 2; i < below; i++) {
        if (composite[i])
            continue;
        sum += i;
        for (long j = (long)i * i; j < below; j += i)
            composite[j] = 1;
    }
    return sum;
}

static int mandelbrot(int size)
{
    int inside = 0;
    for (int py = 0; py < size; py++)
        for (int px = 0; px < size; px++) {
            double cr = -2 + 3.0 * px / size, ci = -1.5 + 3.0 * py / size, zr = 0, zi = 0;
            int n = 0;
            while (n < 100 && zr * zr + zi * zi < 4) {
                double next = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = next;
                n++;
            }
            inside += n == 100;
        }
    return inside;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 20;
    double a = 1.25, sum = 0;
    long double wide = 1;
    fill();
    uint64_t seen[3] = { 0 };
    for (int round = 0; round < rounds; round++) {
        plain(a);
        seen[0] ^= bits(z, N);
        sse2(a);
        seen[1] ^= bits(z, N);
        if (__builtin_cpu_supports("avx"))
            avx(a);
        seen[2] ^= bits(z, N);
        sum += dot() + matrices(64);
        wide = wide * 1.0000001L + sum;
        a = a * 1.0625 - 0.1;
    }
    printf("axpy %016llx %016llx %016llx\n", (unsigned long long)seen[0], (unsigned long long)seen[1], (unsigned long long)seen[2]);
    printf("dot and matrices %a\n", sum);
    printf("x87 %La\n", wide);
    printf("primes %llu\n", (unsigned long long)primes(1 << 20));
    printf("mandelbrot %d\n", mandelbrot(40 + 2 * rounds));
    return 0;
}
