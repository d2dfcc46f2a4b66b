package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

// child is a program that a node runs beside itself. It outlives the node's process when that is killed, and the
// next one takes its place.
type child struct {
	path string
	args []string
	env  []string
	// logFile gets what it says since its last start.
	logFile string
	log     *slog.Logger

	cmd    *exec.Cmd
	exited chan error
}

func (c *child) start() error {
	out, err := os.OpenFile(c.logFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	c.cmd = exec.Command(c.path, c.args...)
	c.cmd.Env = append(os.Environ(), c.env...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	// A group of its own: Ctrl-C at the terminal is for skiff, which ends its
	// children when nobody needs them.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name(), err)
	}
	c.exited = make(chan error, 1)
	guard.Go("node", func() { c.exited <- c.cmd.Wait() })
	return nil
}

func (c *child) name() string { return filepath.Base(c.path) }

// supervise starts the program again when it ends by itself. When ctx ends, it
// ends the program.
func (c *child) supervise(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
			<-c.exited
			return nil
		case err := <-c.exited:
			c.log.Error(c.name()+" ended by itself; starting it again", "error", err, "last", c.lastWords())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		if err := c.start(); err != nil {
			return err
		}
	}
}

func (c *child) lastWords() string {
	data, err := os.ReadFile(c.logFile)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}
