package footprint

import (
	"encoding/binary"
	"os"
	"syscall"
	"testing"
)

// TestGiveBackProgram: what is not needed of the program is not there afterwards, and all else works.
func TestGiveBackProgram(t *testing.T) {
	parts, err := programParts()
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) == 0 {
		t.Fatal("the program has no part that is only read")
	}
	const populate = 22 // MADV_POPULATE_READ (madvise(2))
	for _, p := range parts {
		if _, _, failed := syscall.Syscall(syscall.SYS_MADVISE, p.start, p.end-p.start, populate); failed != 0 {
			t.Skipf("the kernel cannot have all of the program there: %v", failed)
		}
	}
	before := present(t, parts)
	if err := giveBackProgram(); err != nil {
		t.Fatal(err)
	}
	if after := present(t, parts); after >= before {
		t.Errorf("%d pages were there, %d are", before, after)
	}
}

// present counts pages that the process has mapped.
func present(t *testing.T, parts []part) (pages int) {
	t.Helper()
	const entry = 8 // bytes for a page in pagemap (proc_pid_pagemap(5)), whose highest bit says that it is there
	size := uintptr(os.Getpagesize())
	all, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	for _, p := range parts {
		entries := make([]byte, (p.end-p.start)/size*entry)
		if _, err := all.ReadAt(entries, int64(p.start/size*entry)); err != nil {
			t.Fatal(err)
		}
		for ; len(entries) > 0; entries = entries[entry:] {
			if binary.NativeEndian.Uint64(entries)>>63 == 1 {
				pages++
			}
		}
	}
	return pages
}
