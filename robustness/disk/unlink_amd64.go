package disk

import "golang.org/x/sys/unix"

// unlink is a call of its own only on some architectures.
const unlink = unix.SYS_UNLINK
