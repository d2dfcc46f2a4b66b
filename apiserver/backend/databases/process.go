package databases

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// family is a process and its descendants, parents before children.
func family(pid int) []int {
	children := make(map[int][]int)
	for _, p := range processes() {
		parent, _ := stat(p)
		children[parent] = append(children[parent], p)
	}
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids
}

func processes() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// stat reads proc(5)'s parent and state of a process; 0 if it is gone.
func stat(pid int) (parent int, state string) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, ""
	}
	// The name in parentheses may hold anything.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	parent, _ = strconv.Atoi(fields[1])
	return parent, fields[0]
}

// untilGone waits for the end of a process that was killed. One that nobody has
// waited for (a zombie) has ended.
func untilGone(pid int) {
	for {
		if _, state := stat(pid); state == "" || state == "Z" {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// killUsers ends the processes that were started with a folder as an argument.
func killUsers(folder string) {
	for _, pid := range processes() {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil || pid == os.Getpid() || !bytes.Contains(data, []byte(folder+"/")) {
			continue
		}
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			untilGone(pid)
		}
	}
}
