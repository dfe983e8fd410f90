//! The code between a stub and its function.

use super::{TARGETS, leave, pass_in, words};
use rewarm::driver::sys::CUresult;
use rewarm_abi::Hook;
use std::arch::naked_asm;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// What a call is answered with that finds the gate closed while the process ends.
const DEINITIALIZED: CUresult = CUresult(4);

/// Name of the function of the stub `index`.
pub(super) fn name(index: usize) -> String {
    match Hook::ALL.get(index) {
        Some(hook) => hook.name().to_string_lossy().into_owned(),
        None => "one that has no name here".into(),
    }
}

/// What [`pass`] has to know.
#[repr(C)]
struct Way {
    /// The function to call; null: answer [`DEINITIALIZED`].
    target: *mut c_void,
    /// 8-byte words of parameters on the stack.
    words: usize,
}

/// Counts the call of the stub `index` in.
extern "C" fn begin(index: usize, stack: usize) -> Way {
    if !pass_in(index) {
        return Way {
            target: std::ptr::null_mut(),
            words: 0,
        };
    }
    // SAFETY: the gate was opened with the front's table before any slot led here.
    let targets = unsafe { &*TARGETS.load(Ordering::Relaxed) };
    Way {
        target: targets.functions[index].load(Ordering::Acquire),
        words: words::of(index, stack),
    }
}

/// Counts the call out.
extern "C" fn end() {
    leave();
}

/// Takes a call of any driver function through the gate. The stub's index is in
/// `r11`. All parameters that the function can have are kept: six registers, eight
/// floating-point registers, and its words on the stack, which are copied below
/// this function's own frame. The frame is an ordinary one, so that debuggers and
/// unwinders find their way through.
#[unsafe(naked)]
pub(super) extern "C" fn pass() {
    naked_asm!(
        ".cfi_startproc",
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "sub rsp, 176",
        "mov [rbp - 8], rdi",
        "mov [rbp - 16], rsi",
        "mov [rbp - 24], rdx",
        "mov [rbp - 32], rcx",
        "mov [rbp - 40], r8",
        "mov [rbp - 48], r9",
        "movups [rbp - 64], xmm0",
        "movups [rbp - 80], xmm1",
        "movups [rbp - 96], xmm2",
        "movups [rbp - 112], xmm3",
        "movups [rbp - 128], xmm4",
        "movups [rbp - 144], xmm5",
        "movups [rbp - 160], xmm6",
        "movups [rbp - 176], xmm7",
        "mov edi, r11d",
        "lea rsi, [rbp + 16]",
        "call {begin}",
        "test rax, rax",
        "jz 4f",
        "mov r11, rax",
        // Room for the words, a multiple of 16 bytes.
        "lea rcx, [8 * rdx + 8]",
        "and rcx, -16",
        "sub rsp, rcx",
        "test rdx, rdx",
        "jz 3f",
        "2:",
        "mov rcx, [rbp + 8 * rdx + 8]",
        "mov [rsp + 8 * rdx - 8], rcx",
        "dec rdx",
        "jnz 2b",
        "3:",
        "mov rdi, [rbp - 8]",
        "mov rsi, [rbp - 16]",
        "mov rdx, [rbp - 24]",
        "mov rcx, [rbp - 32]",
        "mov r8, [rbp - 40]",
        "mov r9, [rbp - 48]",
        "movups xmm0, [rbp - 64]",
        "movups xmm1, [rbp - 80]",
        "movups xmm2, [rbp - 96]",
        "movups xmm3, [rbp - 112]",
        "movups xmm4, [rbp - 128]",
        "movups xmm5, [rbp - 144]",
        "movups xmm6, [rbp - 160]",
        "movups xmm7, [rbp - 176]",
        "call r11",
        "mov [rbp - 8], rax",
        "mov [rbp - 16], rdx",
        "call {end}",
        "mov rax, [rbp - 8]",
        "mov rdx, [rbp - 16]",
        "jmp 5f",
        "4:",
        "mov eax, {refused}",
        "5:",
        "leave",
        ".cfi_def_cfa rsp, 8",
        "ret",
        ".cfi_endproc",
        begin = sym begin,
        end = sym end,
        refused = const DEINITIALIZED.0,
    )
}
