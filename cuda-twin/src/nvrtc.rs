//! NVIDIA's run-time compiler: CUDA source to machine code of one architecture. It needs no GPU.

use crate::emulator::HEADERS;
use crate::{Error, Result};
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Whether the library can be loaded and answers: from the system's search path, or from `lib64` of `$CUDA_HOME`,
/// `$CUDA_PATH` or `/usr/local/cuda`.
pub fn is_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    *PRESENT.get_or_init(|| {
        load_from_home();
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the first only tries to open the library; the second has places for its answers.
        unsafe { is_there() && sys::nvrtcVersion(&mut major, &mut minor).result().is_ok() }
    })
}

/// Folders that CUDA may be installed in.
fn homes() -> impl Iterator<Item = PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    named.chain([PathBuf::from("/usr/local/cuda")])
}

/// Opens NVRTC where `LD_LIBRARY_PATH` does not lead to it; libraries that are open are found by name from then on.
fn load_from_home() {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};
    for folder in homes().map(|home| home.join("lib64")) {
        let Ok(files) = std::fs::read_dir(&folder) else { continue };
        let mut names: Vec<_> =
            files.flatten().map(|f| f.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with("libnvrtc") && name.contains(".so.") && !name.contains(".alt."));
        names.sort_by_key(|name| (!name.starts_with("libnvrtc-builtins"), name.clone()));
        for name in names {
            // SAFETY: NVIDIA's libraries, whose constructors need nothing. They stay open.
            if let Ok(library) = unsafe { Library::open(Some(folder.join(name)), RTLD_LAZY | RTLD_GLOBAL) } {
                std::mem::forget(library);
            }
        }
    }
}

fn c_string(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Name { name: format!("{what} with a zero byte") })
}

/// Compiles source for an architecture such as `sm_90` to a cubin. `twin.cuh` is there by itself; CUDA's own headers are
/// looked for in `include` of `$CUDA_HOME`, `$CUDA_PATH` and `/usr/local/cuda`.
///
/// # Errors
/// [`Error::Cuda`] where NVRTC is missing or fails; [`Error::Compile`] with its words.
pub fn cubin(name: &str, source: &str, headers: &[(&str, &str)], arch: &str) -> Result<Vec<u8>> {
    crate::gpu::check_names(name, headers)?;
    if !is_present() {
        let cause = "libnvrtc is not found (set CUDA_HOME, or LD_LIBRARY_PATH to its folder)".to_string();
        return Err(Error::Cuda { call: "load NVRTC", cause });
    }
    let headers: Vec<_> = HEADERS.iter().chain(headers).collect();
    let names = headers.iter().map(|(name, _)| c_string("a header", name)).collect::<Result<Vec<_>>>()?;
    let texts = headers.iter().map(|(name, text)| c_string(name, text)).collect::<Result<Vec<_>>>()?;
    let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
    let (names, texts, title, text) =
        (pointers(&names), pointers(&texts), c_string("a source", name)?, c_string(name, source)?);
    let mut program = std::ptr::null_mut();
    // SAFETY: strings and lists outlive the program, which is destroyed below.
    let made = unsafe {
        sys::nvrtcCreateProgram(
            &mut program,
            text.as_ptr(),
            title.as_ptr(),
            names.len() as c_int,
            texts.as_ptr(),
            names.as_ptr(),
        )
    };
    check("nvrtcCreateProgram", made)?;
    let mut options = vec![
        format!("--gpu-architecture={arch}"),
        "--std=c++17".to_string(),
        "--generate-line-info".to_string(),
    ];
    options.extend(
        homes()
            .map(|home| home.join("include"))
            .filter(|i| i.is_dir())
            .map(|i| format!("--include-path={}", i.display())),
    );
    // SAFETY: the program was created above.
    let compiled = unsafe { compile(program, name, arch, &options) };
    // SAFETY: the same; nothing uses it after.
    let _ = unsafe { result::destroy_program(program) };
    compiled
}

/// # Safety
/// `program` is a program.
unsafe fn compile(program: sys::nvrtcProgram, name: &str, arch: &str, options: &[String]) -> Result<Vec<u8>> {
    // SAFETY: as the caller says; lists and buffers live through each call.
    unsafe {
        if let Err(error) = result::compile_program(program, options) {
            let log = result::get_program_log(program).unwrap_or_default();
            let log: Vec<u8> = log.into_iter().map(|c| c as u8).collect();
            let log = CStr::from_bytes_until_nul(&log)
                .map(|l| l.to_string_lossy().into_owned())
                .unwrap_or_default();
            let log = if log.trim().is_empty() { format!("{error:?}") } else { log };
            return Err(Error::Compile {
                name: name.to_string(),
                compiler: format!("NVRTC for {arch}"),
                log,
            });
        }
        let mut bytes = 0;
        check("nvrtcGetCUBINSize", sys::nvrtcGetCUBINSize(program, &mut bytes))?;
        let mut cubin = vec![0u8; bytes];
        check("nvrtcGetCUBIN", sys::nvrtcGetCUBIN(program, cubin.as_mut_ptr().cast()))?;
        if cubin.is_empty() {
            let cause = format!("{arch} is no architecture with machine code (sm_90, not compute_90)");
            return Err(Error::Cuda { call: "nvrtcGetCUBIN", cause });
        }
        Ok(cubin)
    }
}

fn check(call: &'static str, status: sys::nvrtcResult) -> Result<()> {
    status.result().map_err(|e| Error::Cuda { call, cause: format!("{:?}", e.0) })
}

/// Whether NVRTC can be called: a linked library is there.
///
/// # Safety
/// As of loading a library: its initialisation runs.
unsafe fn is_there() -> bool {
    #[cfg(feature = "linked")]
    return true;
    #[cfg(not(feature = "linked"))]
    // SAFETY: the caller's promise.
    unsafe {
        sys::is_culib_present()
    }
}
