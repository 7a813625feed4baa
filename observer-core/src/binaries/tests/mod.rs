mod arm64;
mod elf;
mod file;
mod go;
mod go_damage;
mod hostile;
mod openssl;
mod quic;
