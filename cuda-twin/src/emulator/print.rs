//! What kernels print.

use std::cell::RefCell;
use std::io::Write;

thread_local!(static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) });

/// Runs `f` and returns what kernels that it launched in emulation on this thread printed, which otherwise goes to standard
/// output.
///
/// ```
/// # use cuda_twin::{Gpu, Launch, Options, capture_printf};
/// let source = "#include \"twin.cuh\"\nextern \"C\" __global__ void hello() { printf(\"thread %d\\n\", threadIdx.x); }";
/// let module = Gpu::emulated(Options::default()).compile("hello.cu", source)?;
/// // SAFETY: it accesses no memory.
/// let (result, text) = capture_printf(|| unsafe { module.launch("hello", Launch::linear(1, 1), &[]) });
/// result?;
/// assert_eq!(text, "thread 0\n");
/// # Ok::<(), cuda_twin::Error>(())
/// ```
pub fn capture_printf<R>(f: impl FnOnce() -> R) -> (R, String) {
    let before = CAPTURED.replace(Some(Vec::new()));
    let result = f();
    let text = CAPTURED.replace(before).unwrap_or_default();
    (result, String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn print(text: &[u8]) {
    let captured = CAPTURED.with_borrow_mut(|c| c.as_mut().map(|c| c.extend_from_slice(text)).is_some());
    if !captured {
        // Nothing to be done where standard output is closed.
        let _ = std::io::stdout().write_all(text);
    }
}
