// Package network puts servers on machines of their own, as far as the network
// goes, and makes what is between them and their storage fail: links that are
// taken down, and connections that a proxy cuts or holds.
package network

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// enteredVariable says that this program has a network of its own.
const enteredVariable = "SKIFF_ROBUSTNESS_NETWORK"

// Enter begins this program anew in a network of its own, where no address and
// no port is anybody else's, and which ends with the program and all that it
// started. It must be called first, and returns where that is done.
func Enter() error {
	if os.Getenv(enteredVariable) != "" {
		return os.Unsetenv(enteredVariable)
	}
	runtime.LockOSThread() // the network is this thread's, and becomes the program's
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network (this takes root): %w", err)
	}
	if err := up("lo"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), enteredVariable+"=1"))
}
