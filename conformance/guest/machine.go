package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine is what the guest's system runs on.
type machine interface {
	// command is a program that boots a disk, with memory in MiB, and ends on SIGTERM. What the
	// guest writes to its console goes to the program's standard output, what it writes to its
	// second and third serial port to the files that the program has open as 3 and 4.
	command(disk string, memory int) (name string, args []string)
	// speed says how fast the guest is.
	speed() string
}

// boot runs what a disk says in a machine, writes to out what its programs print, and
// fails as they do. The kernel's console is shown if they never end.
func boot(ctx context.Context, m machine, s settings, dir, disk string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return err
	}
	defer console.Close()
	printed, printer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer printed.Close()
	status, teller, err := os.Pipe()
	if err != nil {
		return errors.Join(err, printer.Close())
	}
	defer status.Close()

	fmt.Fprintln(out, "guest:", m.speed())
	name, args := m.command(disk, s.memory)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir) // where User Mode Linux keeps a folder
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = console, &complaints, []*os.File{printer, teller}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	err = cmd.Start()
	printer.Close()
	teller.Close()
	if err != nil {
		return err
	}
	copied, said := make(chan struct{}), make(chan string, 1)
	go func() {
		_, _ = io.Copy(out, printed)
		close(copied)
	}()
	go func() {
		line, _ := bufio.NewReader(status).ReadString('\n')
		cancel() // all is done, and on the disk
		said <- line
	}()
	failed := cmd.Wait()
	// Processes of the machine that still end have the pipes open.
	for _, pipe := range []*os.File{printed, status} {
		_ = pipe.SetReadDeadline(time.Now().Add(time.Second))
	}
	<-copied
	fmt.Fprintf(out, "guest: off after %.1f s\n", time.Since(began).Seconds())
	code, err := strconv.Atoi(strings.TrimSpace(<-said))
	switch {
	case err != nil:
		last, _ := os.ReadFile(console.Name())
		return fmt.Errorf("the guest's programs did not end (%w)\n%s\n%s", cmp.Or(failed, errors.New("it went off by itself")), complaints.String(), tail(last))
	case code != 0:
		return fmt.Errorf("the guest's programs ended with status %d", code)
	}
	return nil
}

func tail(text []byte) []byte { return text[max(0, len(text)-4096):] }
