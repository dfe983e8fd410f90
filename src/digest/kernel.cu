// The digests of leaves, on the GPU: XXH3-128 of each LEAF bytes (xxHash 0.8,
// doc/xxhash_spec.md, "XXH3 Algorithm (for large inputs)", seed 0, default secret).
//
// Eight threads work on a leaf, one for each of XXH3's accumulators: together they
// read 64 consecutive bytes a stripe, and the 16 stripes of a block are asked for
// before the first is needed, so that the memory is kept busy.
//
// kernel.ptx is made from this by scripts/kernel.

typedef unsigned int u32;
typedef unsigned long long u64;

#define LEAF 16384u
#define STRIPE 64u
#define STRIPES_PER_BLOCK 16u
#define BLOCK (STRIPE * STRIPES_PER_BLOCK)

#define PRIME32_1 0x9E3779B1ull
#define PRIME32_2 0x85EBCA77ull
#define PRIME32_3 0xC2B2AE3Dull
#define PRIME64_1 0x9E3779B185EBCA87ull
#define PRIME64_2 0xC2B2AE3D27D4EB4Full
#define PRIME64_3 0x165667B19E3779F9ull
#define PRIME64_4 0x85EBCA77C2B2AE63ull
#define PRIME_MX1 0x165667919E3779F9ull
#define PRIME64_5 0x27D4EB2F165667C5ull

// The default secret, 192 bytes, as little-endian words.
__constant__ u64 SECRET[24] = {
    0xbe4ba423396cfeb8ull, 0x1cad21f72c81017cull, 0xdb979083e96dd4deull, 0x1f67b3b7a4a44072ull,
    0x78e5c0cc4ee679cbull, 0x2172ffcc7dd05a82ull, 0x8e2443f7744608b8ull, 0x4c263a81e69035e0ull,
    0xcb00c391bb52283cull, 0xa32e531b8b65d088ull, 0x4ef90da297486471ull, 0xd8acdea946ef1938ull,
    0x3f349ce33f76faa8ull, 0x1d4f0bc7c7bbdcf9ull, 0x3159b4cd4be0518aull, 0x647378d9c97e9fc8ull,
    0xc3ebd33483acc5eaull, 0xeb6313faffa081c5ull, 0x49daf0b751dd0d17ull, 0x9e68d429265516d3ull,
    0xfca1477d58be162bull, 0xce31d07ad1b8f88full, 0x280416958f3acb45ull, 0x7e404bbbcafbd7afull,
};

// Eight bytes of the secret from any offset on.
__device__ __forceinline__ u64 secret_at(u32 offset)
{
    u64 low = SECRET[offset / 8];
    u32 shift = offset % 8 * 8;
    return shift == 0 ? low : low >> shift | SECRET[offset / 8 + 1] << (64 - shift);
}

__device__ __forceinline__ u64 fold(u64 a, u64 b)
{
    return a * b ^ __umul64hi(a, b);
}

// What XXH3 makes of the accumulators in the end. Every thread of the eight has the
// result.
__device__ __forceinline__ u64 merge(u64 accumulator, u32 lane, u32 offset, u64 start)
{
    u64 mixed = accumulator ^ secret_at(offset + 8 * lane);
    u64 sum = fold(mixed, __shfl_xor_sync(~0u, mixed, 1));
    sum += __shfl_xor_sync(~0u, sum, 2);
    sum += __shfl_xor_sync(~0u, sum, 4);
    sum += start;
    sum ^= sum >> 37;
    sum *= PRIME_MX1;
    return sum ^ sum >> 32;
}

// Writes the digests of `leaves` leaves, low word first.
extern "C" __global__ void __launch_bounds__(256) rewarm_digest_leaves(const u64 *data, u64 leaves, u64 *digests)
{
    const u32 lane = threadIdx.x % 8;
    const u64 leaf = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 8;
    // The last threads go over the last leaf again: a whole warp takes part in the exchanges.
    const u64 mine = leaf < leaves ? leaf : leaves - 1;
    const u64 *at = data + mine * (LEAF / 8) + lane;

    const u64 initial[8] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
    u64 accumulator = initial[0];
#pragma unroll
    for (u32 i = 1; i < 8; i++) accumulator = lane == i ? initial[i] : accumulator;

    u64 keys[STRIPES_PER_BLOCK];
#pragma unroll
    for (u32 i = 0; i < STRIPES_PER_BLOCK; i++) keys[i] = SECRET[i + lane];
    const u64 scramble = SECRET[16 + lane];
    // The last stripe of all has a key of its own.
    const u64 last = secret_at(192 - 64 - 7 + 8 * lane);

    for (u32 block = 0; block < LEAF / BLOCK; block++, at += BLOCK / 8) {
        const bool is_last = block == LEAF / BLOCK - 1;
        u64 words[STRIPES_PER_BLOCK];
#pragma unroll
        for (u32 i = 0; i < STRIPES_PER_BLOCK; i++) words[i] = __ldcs(at + i * (STRIPE / 8));
#pragma unroll
        for (u32 i = 0; i < STRIPES_PER_BLOCK; i++) {
            const u64 key = words[i] ^ (is_last && i == STRIPES_PER_BLOCK - 1 ? last : keys[i]);
            accumulator += __shfl_xor_sync(~0u, words[i], 1);
            accumulator += (u64)(u32)key * (key >> 32);
        }
        if (!is_last) accumulator = (accumulator ^ accumulator >> 47 ^ scramble) * PRIME32_1;
    }

    const u64 low = merge(accumulator, lane, 11, LEAF * PRIME64_1);
    const u64 high = merge(accumulator, lane, 192 - 64 - 11, ~(LEAF * PRIME64_2));
    if (leaf < leaves && lane < 2) digests[2 * leaf + lane] = lane == 0 ? low : high;
}
