// Hostile is what a container runs that means ill: it leaves at a path what its arguments say, and then
// ends or waits.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

func main() {
	for args := os.Args[1:]; len(args) >= 2; args = args[2:] {
		if err := leave(args[0], args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func leave(what, where string) error {
	switch what {
	case "fifo":
		return syscall.Mkfifo(where, 0o666)
	case "sparse":
		f, err := os.Create(where)
		if err != nil {
			return err
		}
		return f.Truncate(2 << 30)
	case "link": // to the node's own
		return os.Symlink("/../../../../../../../../etc/hostname", where)
	case "exit":
		code, err := strconv.Atoi(where)
		if err != nil {
			return err
		}
		os.Exit(code)
	case "wait":
		select {}
	}
	return fmt.Errorf("leave %s at %s: not known", what, where)
}
