//! From the sources in `guests/` to components in `target/guests/`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::apt::{self, Suite};
use crate::command::output;
use crate::{paths, steps};

/// What guests are built for. The first makes core modules without any import that the guest does not
/// use; the second makes components that import what ordinary programs need, as other toolchains do.
const UNKNOWN: &str = "wasm32-unknown-unknown";
const WASIP2: &str = "wasm32-wasip2";

/// Where Debian has the source of a recent standard library.
const SUITE: &str = "trixie-backports";

/// All guests: the folders in `guests/` that make a module.
///
/// # Errors
///
/// Where the folder cannot be read.
pub fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(paths::root().join("guests"))? {
        let entry = entry?;
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        if manifest.contains("cdylib") {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The guests that are of no use without what WASI has, such as sockets, as their manifests say; and the others.
fn by_need() -> Result<(Vec<String>, Vec<String>)> {
    let (mut needy, mut others) = (Vec::new(), Vec::new());
    for name in names()? {
        let manifest = paths::root().join("guests").join(&name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest)?;
        if manifest.contains("[package.metadata.wasi]") {
            needy.push(name);
        } else {
            others.push(name);
        }
    }
    Ok((needy, others))
}

/// Builds all guests that need no WASI, for whichever target is installed; where none is, the compiler builds the
/// standard library itself.
///
/// # Errors
///
/// What cargo or the encoder says.
pub fn build() -> Result<()> {
    let (_, names) = by_need()?;
    let target = if installed(WASIP2)? && !installed(UNKNOWN)? {
        WASIP2
    } else {
        UNKNOWN
    };
    compile(target, &names)?;
    names
        .iter()
        .try_for_each(|name| finish(target, name, name))?;
    build_c("memory")?;
    build_c("file")
}

/// Builds the guest `NAME-c`, whose source is `guests/NAME-c/NAME.c`.
fn build_c(name: &str) -> Result<()> {
    apt::install(&[("clang-14", "clang-14"), ("wasm-ld-14", "lld-14")])?;
    let guests = paths::root().join("guests");
    let built = paths::target()
        .join("guests")
        .join(format!("{name}-c.core"));
    output(
        Command::new("clang-14")
            .args(["--target=wasm32", "-O2", "-nostdlib", "-mbulk-memory"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wl,--no-entry", "-I"])
            .arg(guests.join("sdk-c"))
            .arg("-o")
            .arg(&built)
            .arg(guests.join(format!("{name}-c/{name}.c"))),
    )?;
    let module = fs::read(&built)?;
    write(
        &component(module, "ring-disk")?,
        &paths::guest(&format!("{name}-c")),
    )
}

/// Makes a component of a core module that fulfils a world of ours.
///
/// # Errors
///
/// Where it does not.
pub fn component(mut module: Vec<u8>, world: &str) -> Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(paths::root().join("wit"))?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    encode(&module)
}

/// Builds the guests that need WASI; and others as `NAME-wasip2`, for the tests of what such components import and are
/// granted.
///
/// # Errors
///
/// What cargo says.
pub fn build_for_wasip2(others: &[&str]) -> Result<()> {
    let (needy, _) = by_need()?;
    let others = others.iter().map(|name| (*name).to_owned());
    let all: Vec<String> = needy.iter().cloned().chain(others).collect();
    compile(WASIP2, &all)?;
    all.iter().try_for_each(|name| {
        if needy.contains(name) {
            finish(WASIP2, name, name)
        } else {
            finish(WASIP2, name, &format!("{name}-wasip2"))
        }
    })
}

fn compile(target: &str, names: &[String]) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "guest",
        "--target",
        target,
    ]);
    for name in names {
        cargo.args(["--package", name]);
    }
    if !installed(target)? {
        cargo
            .arg("-Zbuild-std=std,panic_abort")
            .env("RUSTC_BOOTSTRAP", "1");
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", rust_src()?);
        if target == WASIP2 {
            let flag = format!("-Lnative={}", wasi_libc()?.display());
            cargo.env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", flag);
        }
    }
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the guests do not build");
    }
    Ok(())
}

/// Puts what cargo built where the tests look for it, as a component.
fn finish(target: &str, name: &str, as_name: &str) -> Result<()> {
    let built = paths::target()
        .join(target)
        .join("guest")
        .join(name.replace('-', "_"))
        .with_extension("wasm");
    let component = paths::guest(as_name);
    fs::create_dir_all(paths::target().join("guests"))?;
    if target == WASIP2 {
        fs::copy(built, component)?;
        return Ok(());
    }
    let bytes = encode(&fs::read(built)?).with_context(|| format!("guest {name}"))?;
    write(&bytes, &component)
}

/// Makes a component of a core module that carries its WIT.
fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)?
        .encode()
}

/// Writes a component. What did not change stays untouched.
fn write(bytes: &[u8], component: &Path) -> Result<()> {
    if fs::read(component).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(component, bytes)?;
    Ok(())
}

/// Whether `rustup target add` was done.
fn installed(target: &str) -> Result<bool> {
    Ok(sysroot()?
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .exists())
}

fn sysroot() -> Result<PathBuf> {
    Ok(PathBuf::from(
        output(Command::new("rustc").args(["--print", "sysroot"]))?.trim(),
    ))
}

/// The source of this compiler's standard library: as installed by rustup, or Debian's package of the
/// same version in our cache.
fn rust_src() -> Result<PathBuf> {
    let installed = sysroot()?.join("lib/rustlib/src/rust/library");
    if installed.exists() {
        return Ok(installed);
    }
    let version = output(Command::new("rustc").arg("--version"))?;
    let version = version
        .split(' ')
        .nth(1)
        .context("rustc says no version")?
        .to_owned();
    let folder = paths::cache()?.join("rust-src").join(&version);
    let library = folder.join(format!("usr/src/rustc-{version}/library"));
    if library.exists() {
        return Ok(library);
    }
    steps::say(&format!(
        "    fetching the standard library's source, {version}"
    ));
    let suite = Suite::open(SUITE)?;
    let versions = suite.versions("rust-src")?;
    let Some(package) = versions
        .iter()
        .find(|it| it.starts_with(&format!("{version}+")))
    else {
        bail!(
            "this compiler has no {UNKNOWN} and Debian no source for its version {version} (but {}); \
             run 'rustup target add {UNKNOWN}'",
            versions.join(", ")
        );
    };
    fetch(&suite, &format!("rust-src={package}"), &folder)?;
    Ok(library)
}

/// The C library that Rust's standard library for wasip2 links, from Debian.
fn wasi_libc() -> Result<PathBuf> {
    let folder = paths::cache()?.join("wasi-libc");
    if !folder.exists() {
        fetch(&Suite::open(SUITE)?, "wasi-libc", &folder)?;
    }
    Ok(folder.join("usr/lib/wasm32-wasip2"))
}

/// Unpacks a package into a folder, as a whole or not at all.
fn fetch(suite: &Suite, package: &str, folder: &Path) -> Result<()> {
    let part = folder.with_extension("part");
    let _ = fs::remove_dir_all(&part);
    suite.unpack(package, &part)?;
    fs::rename(&part, folder)?;
    Ok(())
}
