//! Lets programs that were linked with an unpacked libpcap (tests/servers/setup.sh) find it: no such library need be installed to
//! try live capture. Where that folder is not, nothing is added, and the system's library is used.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBPCAP_LIBDIR");
    let live = std::env::var_os("CARGO_FEATURE_LIVE").is_some();
    let folder = std::env::var("LIBPCAP_LIBDIR").ok().filter(|d| live && std::path::Path::new(d).is_dir());
    if let Some(folder) = folder {
        // Also for the libraries that libpcap itself needs, which the newer tag would not do.
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{folder}");
    }
}
