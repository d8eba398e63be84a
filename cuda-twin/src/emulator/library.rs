//! A compiled kernel library: its kernels, and the lines of its code.

use super::compiler;
use super::runtime::Runtime;
use crate::arg::Element;
use crate::module::{Param, ParamKind};
use crate::{Error, Location, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

pub(crate) type Entry = unsafe extern "C" fn(*mut *mut c_void);
pub(crate) type Bind = unsafe extern "C" fn(*const Runtime) -> *const Runtime;

/// A kernel of a library.
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) entry: Entry,
    pub(crate) params: Vec<Param>,
    pub(crate) line: u32,
}

/// A loaded library of kernels.
pub(crate) struct Library {
    kernels: Vec<Kernel>,
    pub(crate) bind: Bind,
    /// Addresses that the library occupies.
    pub(crate) image: Range<usize>,
    path: PathBuf,
    include: PathBuf,
    _library: libloading::Library,
}

/// `twin::Param` and `twin::Kernel` of `runtime.cuh`.
#[repr(C)]
struct RawParam {
    kind: u8,
    element: u8,
    bytes: u32,
}
#[repr(C)]
struct RawKernel {
    entry: Entry,
    params: *const RawParam,
    line: c_int,
}

impl Library {
    pub(crate) fn compile(name: &str, source: &str, headers: &[(&str, &str)], checked: bool) -> Result<Self> {
        let built = compiler::build(name, source, headers, checked)?;
        let failed = |e: libloading::Error| Error::io(&built.library, e);
        // SAFETY: the library is ours; its constructors call nothing but hooks that do nothing before a launch.
        let library = unsafe { libloading::Library::new(&built.library) }.map_err(failed)?;
        // SAFETY: `hooks.cc` defines it so.
        let bind = *unsafe { library.get::<Bind>("twin_bind") }.map_err(failed)?;
        // SAFETY: `compiler::build` writes it: names that each end with a newline.
        let names = unsafe { CStr::from_ptr(*library.get::<*const c_char>("twin_kernels").map_err(failed)?) };
        let names = names.to_string_lossy();
        let kernels = names.lines().map(|name| {
            // SAFETY: TWIN_ENTRY of `entry.cuh` defines one for each name.
            let raw =
                unsafe { library.get::<*const RawKernel>(format!("twin_kernel_{name}")) }.map_err(failed)?;
            // SAFETY: the same; the list of parameters ends with a 0.
            Ok(unsafe { kernel(name, &**raw) })
        });
        let kernels = kernels.collect::<Result<_>>()?;
        let image = image(bind_address(&library)?);
        let image = image.ok_or_else(|| Error::io(&built.library, "is not among the loaded libraries"))?;
        Ok(Self { kernels, bind, image, path: built.library, include: built.include, _library: library })
    }

    pub(crate) fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|k| k.name.as_str())
    }

    pub(crate) fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }

    /// The line of the kernel's source that called a hook which returns to `offset` of the library; `None` without
    /// `addr2line`.
    pub(crate) fn line(&self, offset: u32) -> Option<Location> {
        let address = format!("{:#x}", offset.saturating_sub(1));
        let output = Command::new("addr2line").arg("-ie").arg(&self.path).arg(address).output().ok()?;
        let include = self.include.to_string_lossy().into_owned();
        // Innermost first; functions of our headers are inlined into the line that matters.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let frame = text.lines().find(|l| !l.starts_with(&include)).or(text.lines().next())?;
        let (file, line) = frame.rsplit_once(':')?;
        let line = line.split(' ').next()?.parse().ok().filter(|line| *line > 0)?;
        Some(Location { file: file.rsplit('/').next()?.to_string(), line })
    }
}

/// # Safety
/// `raw` is what TWIN_ENTRY defines.
unsafe fn kernel(name: &str, raw: &RawKernel) -> Kernel {
    let mut params = Vec::new();
    for i in 0.. {
        // SAFETY: the entry of kind 0 has not been passed.
        let RawParam { kind, element, bytes } = unsafe { raw.params.add(i).read() };
        let kind = match kind {
            b'c' => ParamKind::ConstPointer,
            b'p' => ParamKind::Pointer,
            b'v' => ParamKind::Value,
            _ => break,
        };
        params.push(Param { kind, element: Element { code: element, bytes: bytes as usize } });
    }
    Kernel { name: name.to_string(), entry: raw.entry, params, line: raw.line as u32 }
}

fn bind_address(library: &libloading::Library) -> Result<usize> {
    // SAFETY: only the address is taken.
    let symbol = unsafe { library.get::<*const c_char>("twin_kernels") };
    symbol.map(|s| *s as usize).map_err(|e| Error::io(std::path::Path::new("twin_kernels"), e))
}

/// The addresses of the loaded library that contains `address`.
fn image(address: usize) -> Option<Range<usize>> {
    struct Search {
        address: usize,
        found: Option<Range<usize>>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid description, `data` is the search below.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        let base = info.dlpi_addr as usize;
        for i in 0..usize::from(info.dlpi_phnum) {
            // SAFETY: there are `dlpi_phnum` of them.
            let segment = unsafe { &*info.dlpi_phdr.add(i) };
            if segment.p_type != libc::PT_LOAD {
                continue;
            }
            let end = base + segment.p_vaddr as usize + segment.p_memsz as usize;
            let all = base..search
                .found
                .as_ref()
                .map_or(end, |f| if f.start == base { f.end.max(end) } else { end });
            if all.contains(&search.address) || search.found.as_ref().is_some_and(|f| f.start == base) {
                search.found = Some(all);
            }
        }
        c_int::from(search.found.is_some())
    }
    let mut search = Search { address, found: None };
    // SAFETY: `visit` gets the search and keeps nothing.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}
