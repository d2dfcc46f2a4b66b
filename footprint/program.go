package footprint

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// giveBackProgram gives back the pages of the program that are mapped to be read or run. Most of those that a process touches it
// touches while it starts; what it needs again comes back, from the page cache, a few of them at a time.
func giveBackProgram() error {
	parts, err := programParts()
	if err != nil {
		return err
	}
	for _, p := range parts {
		if _, _, failed := syscall.Syscall(syscall.SYS_MADVISE, p.start, p.end-p.start, syscall.MADV_DONTNEED); failed != 0 {
			return fmt.Errorf("madvise %x-%x: %w", p.start, p.end, failed)
		}
	}
	return nil
}

// part is a part of the program in memory.
type part struct{ start, end uintptr }

// programParts are those that are the same in the file: nobody can write to them, nor has anybody written, as a linker or a debugger
// does. They stay where they are for the life of the process.
func programParts() ([]part, error) {
	name, err := os.Executable()
	if err != nil {
		return nil, err
	}
	all, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil, err
	}
	var parts []part
	var now part
	ours := false
	for lines := bufio.NewScanner(bytes.NewReader(all)); lines.Scan(); {
		var p part
		var rights string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %4s", &p.start, &p.end, &rights); n == 3 {
			now, ours = p, (rights == "r--p" || rights == "r-xp") && bytes.HasSuffix(lines.Bytes(), []byte(" "+name))
			continue
		}
		var changed int
		if n, _ := fmt.Sscanf(lines.Text(), "Anonymous: %d kB", &changed); n == 1 && ours && changed == 0 {
			parts = append(parts, now)
		}
	}
	return parts, nil
}
