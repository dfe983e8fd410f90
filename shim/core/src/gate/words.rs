//! How many words of a call's stack are handed on.

use rewarm_abi::{Hook, STUBS};

/// Words handed on for functions whose parameters are not known: the longest known
/// function takes 10.
pub(super) const MOST: usize = 20;

/// Stands for a function whose parameters are not known.
const UNKNOWN: u8 = u8::MAX;

/// Words that each stub's function takes on the stack.
static WORDS: [u8; STUBS] = {
    let mut words = [UNKNOWN; STUBS];
    let mut index = 0;
    while index < Hook::COUNT {
        if let Some(count) = Hook::ALL[index].stack_words() {
            words[index] = count as u8;
        }
        index += 1;
    }
    words
};

/// Words to hand on of a call of the stub `index`, whose stack parameters would lie
/// at `stack`.
#[inline(always)]
pub(super) fn of(index: usize, stack: usize) -> usize {
    match WORDS[index] {
        UNKNOWN => at_most(MOST, stack),
        words => usize::from(words),
    }
}

/// Words from `stack` on that can be read, at most `most`. A stack may end just
/// above the caller's return address, which lies below `stack`.
#[cold]
fn at_most(most: usize, stack: usize) -> usize {
    const PAGE: usize = 4096;
    // The page of the return address is there.
    let next_page = ((stack - 8) & !(PAGE - 1)) + PAGE;
    let here = (next_page - stack) / 8;
    if here >= most || is_readable(next_page) {
        most
    } else {
        here
    }
}

/// Whether the page at `address` can be read: the kernel reads a signal mask from
/// there before it finds that what to do with it is nonsense.
fn is_readable(address: usize) -> bool {
    let _errno = super::futex::KeptErrno::new();
    const NOTHING_KNOWN: libc::c_int = -1;
    // SAFETY: changes nothing, whatever it answers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            NOTHING_KNOWN,
            address,
            std::ptr::null_mut::<u8>(),
            8,
        )
    };
    // SAFETY: the thread's own.
    result == 0 || unsafe { *libc::__errno_location() } != libc::EFAULT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_not_read_past_its_end() {
        // SAFETY: a fresh mapping of two pages, the second of which is given back.
        let page = unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                8192,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(page, libc::MAP_FAILED);
            page as usize
        };
        let end = page + 4096;
        for words in 0..30 {
            assert_eq!(
                at_most(MOST, end - 8 * words),
                MOST,
                "{words} words before the end"
            );
        }
        // SAFETY: the second page of the mapping above.
        unsafe { libc::munmap(end as *mut _, 4096) };
        for words in 0..30 {
            assert_eq!(at_most(MOST, end - 8 * words), words.min(MOST));
        }
    }
}
