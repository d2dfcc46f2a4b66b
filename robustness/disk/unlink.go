//go:build !amd64

package disk

import "golang.org/x/sys/unix"

const unlink = unix.SYS_UNLINKAT
