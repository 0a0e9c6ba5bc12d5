//! Lets tests that were linked with an unpacked libpcap (tests/servers/setup.sh) find it, where `REPLAY_LIBPCAP_RPATH` asks for it
//! (`make test` does). Never for what people install: a program that is given a privilege must not look for libraries where
//! somebody else may write.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBPCAP_LIBDIR");
    println!("cargo:rerun-if-env-changed=REPLAY_LIBPCAP_RPATH");
    let asked = std::env::var_os("REPLAY_LIBPCAP_RPATH").is_some()
        && std::env::var_os("CARGO_FEATURE_LIVE").is_some();
    let folder = std::env::var("LIBPCAP_LIBDIR").ok().filter(|d| asked && std::path::Path::new(d).is_dir());
    if let Some(folder) = folder {
        // Also for the libraries that libpcap itself needs, which the newer tag would not do.
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{folder}");
    }
}
