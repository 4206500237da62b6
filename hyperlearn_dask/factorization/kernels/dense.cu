// Many small symmetric systems, and a sparse matrix times a block, for CUDA. See kernels/cuda.py.

typedef long long Long;

// Tests run this file on the host, where such memory comes from elsewhere.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ double name[]
#endif

// H_i y_i = c_i by Cholesky, a block for every gridDim.x-th row i; columns whose pivot is no more than eps times
// the diagonal are 0 in y_i.
//
// The factor, its diagonal inverted, lies in dynamic shared memory or, where that is too small for it, in
// `scratch`: width * (width | 1) + width numbers a block.
template <typename T>
__global__ void solve_rows(Long rows, int width, T eps, const T* __restrict__ matrices,
                           const T* __restrict__ right, T* __restrict__ scratch, T* __restrict__ solution) {
    DYNAMIC_SHARED(pool);
    const int stride = width | 1;  // odd, so that a column lies in all banks
    T* root = scratch ? scratch + static_cast<Long>(blockIdx.x) * (width * stride + width)
                      : reinterpret_cast<T*>(pool);
    T* y = root + width * stride;
    for (Long row = blockIdx.x; row < rows; row += gridDim.x) {
        const T* h = matrices + row * width * width;
        for (int s = threadIdx.x; s < width * width; s += blockDim.x)
            if (s % width <= s / width) root[s / width * stride + s % width] = h[s];
        for (int a = threadIdx.x; a < width; a += blockDim.x) y[a] = right[row * width + a];
        __syncthreads();

        for (int k = 0; k < width; ++k) {
            // Column k of L, from the columns before it, and L^-1 c alongside
            for (int a = k + threadIdx.x; a < width; a += blockDim.x) {
                T total = root[a * stride + k];
                for (int j = 0; j < k; ++j) total -= root[a * stride + j] * root[k * stride + j];
                root[a * stride + k] = total;
            }
            __syncthreads();
            const T least = eps * h[k * width + k], pivot = root[k * stride + k];
            // Where rounding leaves nothing the solution is 0, as on the CPU
            const T inverse = pivot > least ? 1 / sqrt(pivot) : 0;
            const T known = y[k] * inverse;
            __syncthreads();  // all have read the pivot
            for (int a = k + threadIdx.x; a < width; a += blockDim.x) {
                if (a == k) {
                    root[k * stride + k] = inverse;
                    y[k] = known;
                } else {
                    root[a * stride + k] *= inverse;
                    y[a] -= root[a * stride + k] * known;
                }
            }
            __syncthreads();
        }
        for (int k = width - 1; k >= 0; --k) {
            const T known = y[k] * root[k * stride + k];
            __syncthreads();
            for (int a = threadIdx.x; a <= k; a += blockDim.x) {
                if (a == k)
                    y[k] = known;
                else
                    y[a] -= root[k * stride + a] * known;
            }
            __syncthreads();
        }
        for (int a = threadIdx.x; a < width; a += blockDim.x) solution[row * width + a] = y[a];
        __syncthreads();  // all have read y
    }
}

template <typename T, typename I>
__device__ T neighbours(const I* __restrict__ indices, const T* __restrict__ data,
                        const T* __restrict__ block, int width, int column, Long from, Long to, int step) {
    T sum = 0;
#pragma unroll 4
    for (Long e = from; e < to; e += step)
        sum += __ldg(data + e) * __ldg(block + static_cast<Long>(__ldg(indices + e)) * width + column);
    return sum;
}

// PRODUCT: out = L now; else a step of Clenshaw's recurrence, out = c * given + scale (L now - now) - out.
//
// L in CSR; LANES threads have a row, one column each; a row with more than `heavy` neighbours is shared
// by all threads of the block. grid: (rows in blocks of THREADS / LANES, tiles of columns).
template <typename T, typename I, int LANES, int THREADS, bool PRODUCT>
__global__ void graph_step(Long rows, int width, int heavy, T scale, const I* __restrict__ indptr,
                           const I* __restrict__ indices, const T* __restrict__ data,
                           const T* __restrict__ now, const T* __restrict__ given,
                           const T* __restrict__ c, T* __restrict__ out) {
    constexpr int GROUPS = THREADS / LANES;
    __shared__ T pool[THREADS];
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const Long first = static_cast<Long>(blockIdx.x) * GROUPS, row = first + group;
    const int column = blockIdx.y * LANES + lane;
    const bool inside = row < rows && column < width;

    T sum = 0;
    if (inside && indptr[row + 1] - indptr[row] <= heavy)
        sum = neighbours(indices, data, now, width, column, indptr[row], indptr[row + 1], 1);
    for (int g = 0; g < GROUPS && first + g < rows; ++g) {
        const Long begin = indptr[first + g], end = indptr[first + g + 1];
        if (end - begin <= heavy) continue;  // the same for all threads of the block
        pool[threadIdx.x] =
            column < width ? neighbours(indices, data, now, width, column, begin + group, end, GROUPS) : T(0);
        __syncthreads();
        if (g == group)
            for (int other = 0; other < GROUPS; ++other) sum += pool[other * LANES + lane];
        __syncthreads();
    }
    if (!inside) return;
    const Long at = row * width + column;
    out[at] = PRODUCT ? sum : c[column] * given[at] + scale * (sum - now[at]) - out[at];
}
