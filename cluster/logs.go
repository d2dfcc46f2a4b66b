package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// logPart is a part of a cluster that says something: a file, and which of its lines are of the part.
type logPart struct {
	name, file string
	mark       string // in every line of the part; empty: all are
}

// logParts are the parts of the cluster of a data directory.
func (c Config) logParts() ([]logPart, error) {
	own := filepath.Join(c.DataDir, "skiff.log")
	parts := []logPart{{"cluster", own, ""}, {"apiserver", own, "component=apiserver"}, {"scheduler", own, "component=scheduler"}}
	entries, err := os.ReadDir(filepath.Join(c.DataDir, "nodes"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		name, dir := entry.Name(), filepath.Join(c.DataDir, "nodes", entry.Name())
		node := logPart{name, filepath.Join(dir, "node.log"), ""}
		if _, err := os.Stat(node.file); err != nil { // it runs in the process of the cluster
			node = logPart{name, own, "node=" + name}
		}
		parts = append(parts, node, logPart{name + "/containerd", filepath.Join(dir, "containerd.log"), ""})
	}
	return parts, nil
}

// LogParts names the parts of which Logs can tell.
func LogParts(c Config) ([]string, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	parts, err := c.logParts()
	names := make([]string, 0, len(parts))
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names, err
}

// Logs writes what a part of the cluster has said, and if follow is set what it says until ctx ends.
func Logs(ctx context.Context, c Config, part string, follow bool, out io.Writer) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	parts, err := c.logParts()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(parts, func(p logPart) bool { return p.name == part })
	if i < 0 {
		names, err := LogParts(c)
		return errors.Join(fmt.Errorf("no part is called %q; there are %s", part, strings.Join(names, ", ")), err)
	}
	return parts[i].copy(ctx, follow, out)
}

// logPause is how long it takes at most until what was written is shown.
const logPause = 200 * time.Millisecond

func (p logPart) copy(ctx context.Context, follow bool, out io.Writer) error {
	file, err := os.Open(p.file)
	if err != nil {
		return err
	}
	defer func() { file.Close() }()
	lines, begun := bufio.NewReader(file), ""
	for {
		text, err := lines.ReadString('\n')
		begun += text
		if err == nil || !follow && begun != "" {
			if p.mark == "" || slices.Contains(strings.Fields(begun), p.mark) {
				if _, err := io.WriteString(out, begun); err != nil {
					return err
				}
			}
			begun = ""
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(logPause):
		}
		if again, err := p.reopened(file); err != nil {
			return err
		} else if again != nil {
			file.Close()
			file, begun = again, ""
			lines.Reset(file)
		}
	}
}

// reopened is the file anew if it was begun anew, else nil.
func (p logPart) reopened(file *os.File) (*os.File, error) {
	at, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(p.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // it may come again
	}
	if err != nil {
		return nil, err
	}
	old, err := file.Stat()
	if err != nil || os.SameFile(old, info) && info.Size() >= at {
		return nil, err
	}
	return os.Open(p.file)
}
