// Enough of CUDA to run a kernel's source on the host, one thread of it at a time: for tests.
//
// The threads of a block are fibers. They take turns at barriers and shuffles; blocks run one after the
// other. Threads that wait for one another for ever are found out and reported.
#ifndef ON_HOST_H
#define ON_HOST_H
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>

#define __global__
#define __device__
#define __shared__ static
#define DYNAMIC_SHARED(name) double* name = reinterpret_cast<double*>(host::dynamic_shared)

struct Dim { unsigned x = 1, y = 1, z = 1; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

namespace host {

constexpr unsigned MOST = 1024;
constexpr size_t STACK = 64 * 1024;

struct Fiber { ucontext_t context; char* stack = nullptr; bool done = false; unsigned shuffles = 0; };
struct Meeting { unsigned arrived = 0, generation = 0; };

static Fiber fibers[MOST];
static ucontext_t scheduler;
static unsigned current, progress;
static Meeting of_block, of_lanes[MOST];  // a meeting of lanes is known by its first thread
static char slots[2][MOST][16];
static char* dynamic_shared;

inline void meet(Meeting& meeting, unsigned count) {
    const unsigned generation = meeting.generation;
    if (++meeting.arrived == count) {
        meeting.arrived = 0;
        ++meeting.generation;
        ++progress;
        return;
    }
    while (meeting.generation == generation) swapcontext(&fibers[current].context, &scheduler);
}

template <typename T>
T exchange(unsigned mask, T value, int partner, int width) {
    const unsigned lane = current % 32, first = lane / width * width;
    const unsigned expected = (width == 32 ? 0xffffffffu : (1u << width) - 1) << first;
    if (mask != expected) { fprintf(stderr, "a shuffle's mask is not its group\n"); abort(); }
    auto& slot = slots[fibers[current].shuffles++ % 2];
    memcpy(slot[current], &value, sizeof value);
    meet(of_lanes[current - lane + first], width);
    memcpy(&value, slot[current - lane + first + partner], sizeof value);
    return value;
}

template <typename F>
struct Launch;

template <typename... A>
struct Launch<void (*)(A...)> {
    static void (*kernel)(A...);
    static void** arguments;

    template <size_t... N>
    static void call(std::integer_sequence<size_t, N...>) { kernel(*static_cast<A*>(arguments[N])...); }

    static void thread() {
        call(std::make_integer_sequence<size_t, sizeof...(A)>());
        fibers[current].done = true;
        ++progress;
        swapcontext(&fibers[current].context, &scheduler);
    }
};
template <typename... A> void (*Launch<void (*)(A...)>::kernel)(A...);
template <typename... A> void** Launch<void (*)(A...)>::arguments;

inline bool run_block(void (*thread)(), unsigned threads) {
    of_block = Meeting();
    for (unsigned t = 0; t < threads; ++t) {
        of_lanes[t] = Meeting();
        Fiber& fiber = fibers[t];
        if (!fiber.stack) fiber.stack = static_cast<char*>(malloc(STACK));
        fiber.done = false;
        fiber.shuffles = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, thread, 0);
    }
    for (unsigned left = threads; left;) {
        const unsigned before = progress;
        left = 0;
        for (current = 0; current < threads; ++current) {
            if (fibers[current].done) continue;
            threadIdx.x = current;
            swapcontext(&scheduler, &fibers[current].context);
            left += !fibers[current].done;
        }
        if (left && progress == before) return false;
    }
    return true;
}

// 0, or what went wrong: 1 threads wait for ever, 2 dynamic shared memory was overrun.
template <typename... A>
int launch(void (*kernel)(A...), const unsigned* grid, unsigned threads, size_t shared, void** arguments) {
    using L = Launch<void (*)(A...)>;
    L::kernel = kernel;
    L::arguments = arguments;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    dynamic_shared = static_cast<char*>(malloc(shared + 16));
    memset(dynamic_shared, 0x5a, shared + 16);
    int wrong = threads > MOST;
    for (blockIdx.z = 0; blockIdx.z < grid[2] && !wrong; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1] && !wrong; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0] && !wrong; ++blockIdx.x)
                wrong = !run_block(&L::thread, threads);
    for (size_t i = 0; i < 16 && !wrong; ++i)
        if (dynamic_shared[shared + i] != 0x5a) wrong = 2;
    free(dynamic_shared);
    return wrong;
}

// A kernel's parameters as NumPy would say them: "i8 i4 *f4 ".
template <typename A> struct Name;
template <> struct Name<float> { static constexpr const char* text = "f4"; };
template <> struct Name<double> { static constexpr const char* text = "f8"; };
template <> struct Name<int> { static constexpr const char* text = "i4"; };
template <> struct Name<long long> { static constexpr const char* text = "i8"; };
template <> struct Name<unsigned long long> { static constexpr const char* text = "u8"; };

template <typename A> void describe(char* out, A*) { strcat(strcat(out, Name<A>::text), " "); }
template <typename A> void describe(char* out, A**) { strcat(out, "*"); describe<A>(out, static_cast<A*>(nullptr)); }
template <typename A> void describe(char* out, const A**) { strcat(out, "*"); describe<A>(out, static_cast<A*>(nullptr)); }

template <typename... A>
const char* signature(void (*)(A...)) {
    static char out[256];
    out[0] = 0;
    (describe(out, static_cast<A*>(nullptr)), ...);
    return out;
}

}  // namespace host

inline void __syncthreads() { host::meet(host::of_block, blockDim.x); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step, int width) {
    return host::exchange(mask, value, static_cast<int>(host::current % width) ^ step, width);
}

template <typename T>
T atomicAdd(T* place, T value) {
    const T before = *place;
    *place += value;
    return before;
}

template <typename T>
T __ldg(const T* place) { return *place; }

using std::sqrt;

#endif
