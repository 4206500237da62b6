// Products over the entries of a sparse tensor, for CUDA. Compiled by kernels/cuda.py, which says what
// goes in and comes out; kernels/cpu.py has the same in Numba.
//
// T: float or double. I: the integer of coordinates. ORDER: modes of the tensor. LANES: threads that
// share an entry, one column each; wider matrices are cut into tiles of so many columns.
// Arrays of which there is one per mode come as a table of addresses, role by role.

typedef unsigned long long Address;
typedef long long Long;

template <typename T, typename I, int ORDER>
struct Modes {
    const I* index[ORDER];
    const T* matrix[ORDER];

    __device__ Modes(const Address* __restrict__ table) {
#pragma unroll
        for (int m = 0; m < ORDER; ++m) {
            index[m] = reinterpret_cast<const I*>(table[m]);
            matrix[m] = reinterpret_cast<const T*>(table[ORDER + m]);
        }
    }

    // prod_{m != mode} A_m[i_m, r] for entry e
    __device__ T product_without(int mode, Long e, int rank, int r) const {
        T z = 1;
#pragma unroll
        for (int m = 0; m < ORDER; ++m)
            if (m != mode) z *= __ldg(matrix[m] + static_cast<Long>(__ldg(index[m] + e)) * rank + r);
        return z;
    }
};

// A row that is complete where it was summed up is written, one that others add to as well is added to.
template <typename T>
__device__ void put(T* place, T value, bool shared) {
    if (shared)
        atomicAdd(place, value);
    else
        *place = value;
}

// The sum over the LANES threads that share an entry, for each of them.
template <int LANES, typename T>
__device__ T sum_of_lanes(T value) {
    const int warp_lane = threadIdx.x % 32;
    const unsigned all = 0xffffffffu >> (32 - LANES);
    const unsigned mask = all << (warp_lane / LANES * LANES);
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) value += __shfl_xor_sync(mask, value, step, LANES);
    return value;
}

// MTTKRP of the modes whose bit in `wanted` is set, in one pass over the entries.
//
// Entries (or `entries`, places of entries, if given) are grouped by their row of mode `walk`. LANES
// threads walk a run of `run` of them with the present row of that mode in registers; it is written once,
// and added to where the run's neighbours have a part of it. Runs are equally long, so a heavy row is
// split. The rows of other modes are added to. Outputs are zero before.
//
// grid: (runs in blocks, tiles of columns). Table: indices, matrices, outputs.
template <typename T, typename I, int ORDER, int LANES>
__global__ void mttkrp(Long nnz, int run, int rank, int walk, int wanted, const Long* __restrict__ entries,
                       const T* __restrict__ values, const Address* __restrict__ table) {
    // Entries fetched together, to have more loads under way.
    constexpr int TOGETHER = ORDER <= 4 ? 4 : 1;
    const int groups = blockDim.x / LANES;
    const Long begin = (static_cast<Long>(blockIdx.x) * groups + threadIdx.x / LANES) * run;
    const int r = blockIdx.y * LANES + threadIdx.x % LANES;
    if (begin >= nnz || r >= rank) return;
    const Long end = begin + run < nnz ? begin + run : nnz;

    const Modes<T, I, ORDER> modes(table);
    T* out[ORDER];
#pragma unroll
    for (int m = 0; m < ORDER; ++m) out[m] = reinterpret_cast<T*>(table[2 * ORDER + m]);
    const I* walked = reinterpret_cast<const I*>(table[walk]);
    T* written = reinterpret_cast<T*>(table[2 * ORDER + walk]);
    const bool writes = wanted >> walk & 1;

    Long row = walked[entries ? entries[begin] : begin];
    bool shared = begin > 0 && walked[entries ? entries[begin - 1] : begin - 1] == row;
    T sum = 0;
    for (Long at = begin; at < end; at += TOGETHER) {
        T x[TOGETHER], a[TOGETHER][ORDER];
        I i[TOGETHER][ORDER];
#pragma unroll
        for (int t = 0; t < TOGETHER; ++t) {
            if (at + t >= end) continue;
            const Long e = entries ? __ldg(entries + at + t) : at + t;
            x[t] = __ldg(values + e);
#pragma unroll
            for (int m = 0; m < ORDER; ++m) i[t][m] = __ldg(modes.index[m] + e);
        }
#pragma unroll
        for (int t = 0; t < TOGETHER; ++t) {
            if (at + t >= end) continue;
#pragma unroll
            for (int m = 0; m < ORDER; ++m)
                a[t][m] = __ldg(modes.matrix[m] + static_cast<Long>(i[t][m]) * rank + r);
        }
#pragma unroll
        for (int t = 0; t < TOGETHER; ++t) {
            if (at + t >= end) continue;
            T left[ORDER];  // x prod_{o < m} A_o
            left[0] = x[t];
#pragma unroll
            for (int m = 1; m < ORDER; ++m) left[m] = left[m - 1] * a[t][m - 1];
            T right = 1;  // prod_{o > m} A_o
#pragma unroll
            for (int m = ORDER - 1; m >= 0; --m) {
                const Long own = i[t][m];
                if (m == walk) {
                    if (own != row) {
                        if (writes) put(written + row * rank + r, sum, shared);
                        row = own;
                        sum = 0;
                        shared = false;
                    }
                    sum += left[m] * right;
                } else if (wanted >> m & 1) {
                    atomicAdd(out[m] + own * rank + r, left[m] * right);
                }
                right *= a[t][m];
            }
        }
    }
    shared = shared || (end < nnz && walked[entries ? entries[end] : end] == row);
    if (writes) put(written + row * rank + r, sum, shared);
}

// sum over the entries of -2 x xhat(alpha) + v xhat(alpha)^2 as coefficients of alpha.
//
// LANES threads sum the columns of an entry; of LANES entries in a row each of them then keeps one, so
// that all have work with the polynomials. grid: any number of blocks of THREADS; each writes a row of
// `partial` (blocks x (2 ORDER + 1)). Table: indices, matrices, directions.
template <typename T, typename I, int ORDER, int LANES, int THREADS>
__global__ void line(Long nnz, int rank, double v, const T* __restrict__ values,
                     const Address* __restrict__ table, double* __restrict__ partial) {
    constexpr int DEGREE = 2 * ORDER;
    const int lane = threadIdx.x % LANES;
    const Long groups = static_cast<Long>(gridDim.x) * (THREADS / LANES);
    const Long group = static_cast<Long>(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
    const Modes<T, I, ORDER> modes(table);
    const T* direction[ORDER];
#pragma unroll
    for (int m = 0; m < ORDER; ++m) direction[m] = reinterpret_cast<const T*>(table[2 * ORDER + m]);

    double total[DEGREE + 1];
#pragma unroll
    for (int k = 0; k <= DEGREE; ++k) total[k] = 0;
    for (Long first = group * LANES; first < nnz; first += groups * LANES) {
        double mine[ORDER + 1] = {};
        for (int turn = 0; turn < LANES && first + turn < nnz; ++turn) {
            Long i[ORDER];
#pragma unroll
            for (int m = 0; m < ORDER; ++m) i[m] = __ldg(modes.index[m] + first + turn);
            T value[ORDER + 1];
#pragma unroll
            for (int k = 0; k <= ORDER; ++k) value[k] = 0;
            for (int r = lane; r < rank; r += LANES) {
                T term[ORDER + 1];  // coefficients of prod_m (A_m + alpha D_m)[i_m, r]
                term[0] = 1;
#pragma unroll
                for (int m = 0; m < ORDER; ++m) {
                    const T a = __ldg(modes.matrix[m] + i[m] * rank + r);
                    const T d = __ldg(direction[m] + i[m] * rank + r);
                    term[m + 1] = term[m] * d;
#pragma unroll
                    for (int k = m; k > 0; --k) term[k] = term[k] * a + term[k - 1] * d;
                    term[0] *= a;
                }
#pragma unroll
                for (int k = 0; k <= ORDER; ++k) value[k] += term[k];
            }
#pragma unroll
            for (int k = 0; k <= ORDER; ++k) {
                const T sum = sum_of_lanes<LANES>(value[k]);
                if (turn == lane) mine[k] = sum;
            }
        }
        if (first + lane < nnz) {
            const double x = __ldg(values + first + lane);
#pragma unroll
            for (int k = 0; k <= ORDER; ++k) {
                total[k] -= 2 * x * mine[k];
#pragma unroll
                for (int l = 0; l <= ORDER; ++l) total[k + l] += v * mine[k] * mine[l];
            }
        }
    }

    __shared__ double pool[THREADS];
#pragma unroll
    for (int k = 0; k <= DEGREE; ++k) {
        pool[threadIdx.x] = total[k];
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (static_cast<int>(threadIdx.x) < half) pool[threadIdx.x] += pool[threadIdx.x + half];
            __syncthreads();
        }
        if (threadIdx.x == 0) partial[static_cast<Long>(blockIdx.x) * (DEGREE + 1) + k] = pool[0];
        __syncthreads();
    }
}

// Row-wise normal equations over a mode's entries, grouped by row: a tile of H_i for a segment of row i.
//
// With z the product of the other modes' rows, over the row's entries:
//     H_i = v sum z_free z_free',                     c_i = sum z_free (x - v sum z_fixed)
// or, CONTEXT, with G (rank x rank) in the place of v:
//     H_i = (sum z z' * G)_free,free,                 c_i = -(sum z z' * G)_free,fixed 1.
//
// grid: (segments, pairs of tiles tb <= ta); block: TILE * TILE / 4 threads, four rows of the tile each.
// Segment s: entries from begins[s], at most `most` of them and none of another row than rows[s]. A row of
// several segments is added to; outputs are zero before. Table: indices, matrices.
template <typename T, typename I, int ORDER, int TILE, bool CONTEXT>
__global__ void equations(int most, int rank, int width, int known, int mode, T v,
                          const Long* __restrict__ rows, const Long* __restrict__ begins,
                          const Long* __restrict__ starts, const Long* __restrict__ entries,
                          const int* __restrict__ free, const int* __restrict__ fixed,
                          const T* __restrict__ values, const T* __restrict__ target,
                          const Address* __restrict__ table, T* __restrict__ gram, T* __restrict__ right) {
    constexpr int ACROSS = 4, THREADS = TILE * TILE / ACROSS;
    __shared__ T za[TILE][TILE + 1], zb[TILE][TILE + 1], rest[TILE][TILE + 1];
    const Modes<T, I, ORDER> modes(table);
    const Long row = rows[blockIdx.x], begin = begins[blockIdx.x];
    const Long stop = starts[row + 1], end = begin + most < stop ? begin + most : stop;
    const bool shared = begin != starts[row] || end != stop;
    int ta = 0, tb = blockIdx.y;  // the pairs (0, 0), (1, 0), (1, 1), (2, 0) ...
    while (tb > ta) tb -= ++ta;
    const int b = threadIdx.x % TILE, a = threadIdx.x / TILE * ACROSS;

    T total[ACROSS] = {}, known_part = 0;
    for (Long at = begin; at < end; at += TILE) {
        for (int s = threadIdx.x; s < TILE * TILE; s += THREADS) {
            const int q = s / TILE, c = s % TILE;
            const Long e = at + q < end ? __ldg(entries + at + q) : -1;
            const int ca = ta * TILE + c, cb = tb * TILE + c;
            za[q][c] = e >= 0 && ca < width ? modes.product_without(mode, e, rank, free[ca]) : T(0);
            if (tb != ta) {
                zb[q][c] = e >= 0 && cb < width ? modes.product_without(mode, e, rank, free[cb]) : T(0);
                continue;
            }
            zb[q][c] = za[q][c];
            T other = 0;
            if (e >= 0 && ca < width && (CONTEXT || c == 0)) {
                for (int f = 0; f < known; ++f) {
                    const T z = modes.product_without(mode, e, rank, fixed[f]);
                    other -= z * (CONTEXT ? target[static_cast<Long>(free[ca]) * rank + fixed[f]] : v);
                }
                if (!CONTEXT) other += __ldg(values + e);
            }
            rest[q][c] = other;
        }
        __syncthreads();
        for (int q = 0; q < TILE; ++q) {
#pragma unroll
            for (int k = 0; k < ACROSS; ++k) total[k] += za[q][a + k] * zb[q][b];
            if (tb == ta && threadIdx.x < TILE) known_part += za[q][b] * rest[q][CONTEXT ? b : 0];
        }
        __syncthreads();
    }

    const int column = tb * TILE + b;
#pragma unroll
    for (int k = 0; k < ACROSS; ++k) {
        const int line = ta * TILE + a + k;
        if (line >= width || column >= width) continue;
        const T weight = CONTEXT ? target[static_cast<Long>(free[line]) * rank + free[column]] : v;
        put(gram + (row * width + line) * width + column, weight * total[k], shared);
        if (tb != ta) put(gram + (row * width + column) * width + line, weight * total[k], shared);
    }
    if (tb == ta && threadIdx.x < TILE && column < width)
        put(right + row * width + column, known_part, shared);
}
