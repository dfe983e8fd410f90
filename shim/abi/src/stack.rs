//! What each function takes on the stack: whoever stands between it and its caller
//! has to hand that on.

use crate::Hook;

/// Functions whose parameters are documented nowhere.
const UNDOCUMENTED: [Hook; 3] = [
    Hook::cuEGLApiInit,
    Hook::cuMemGetAttribute,
    Hook::cuMemGetAttribute_v2,
];

/// Functions with more than six parameters, or with a structure by value that
/// does not fit two registers, and the 8-byte words that lie on the stack.
const WORDS: [(Hook, u8); 28] = [
    (Hook::cuEGLStreamProducerPresentFrame, 8),
    (Hook::cuIpcOpenEventHandle, 8),
    (Hook::cuIpcOpenMemHandle, 8),
    (Hook::cuIpcOpenMemHandle_v2, 8),
    (Hook::cuLaunchCooperativeKernel, 4),
    (Hook::cuLaunchCooperativeKernel_ptsz, 4),
    (Hook::cuLaunchKernel, 5),
    (Hook::cuLaunchKernel_ptsz, 5),
    (Hook::cuLibraryLoadData, 2),
    (Hook::cuLibraryLoadFromFile, 2),
    (Hook::cuLinkAddData, 2),
    (Hook::cuLinkAddData_v2, 2),
    (Hook::cuLogicalEndpointBindMem, 1),
    (Hook::cuMemDiscardAndPrefetchBatchAsync, 2),
    (Hook::cuMemDiscardAndPrefetchBatchAsync_ptsz, 2),
    (Hook::cuMemPrefetchBatchAsync, 2),
    (Hook::cuMemPrefetchBatchAsync_ptsz, 2),
    (Hook::cuMemcpyBatchAsync, 3),
    (Hook::cuMemcpyBatchAsync_ptsz, 3),
    (Hook::cuMemcpyBatchAsync_v2, 2),
    (Hook::cuMemcpyBatchAsync_v2_ptsz, 2),
    (Hook::cuMulticastBindMem_v2, 1),
    (Hook::cuOccupancyMaxPotentialBlockSizeWithFlags, 1),
    (Hook::cuStreamGetCaptureInfo_v3, 1),
    (Hook::cuStreamGetCaptureInfo_v3_ptsz, 1),
    (Hook::cuTensorMapEncodeIm2col, 9),
    (Hook::cuTensorMapEncodeIm2colWide, 10),
    (Hook::cuTensorMapEncodeTiled, 6),
];

impl Hook {
    /// 8-byte words that the function takes on the stack (System V, x86-64);
    /// `None` where that is not known.
    pub const fn stack_words(self) -> Option<usize> {
        let mut at = 0;
        while at < UNDOCUMENTED.len() {
            if UNDOCUMENTED[at] as usize == self as usize {
                return None;
            }
            at += 1;
        }
        at = 0;
        while at < WORDS.len() {
            if WORDS[at].0 as usize == self as usize {
                return Some(WORDS[at].1 as usize);
            }
            at += 1;
        }
        Some(0)
    }
}
