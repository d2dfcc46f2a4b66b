package audit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"gopkg.in/natefinch/lumberjack.v2"
)

// lines is a log of lines of JSON, an event each.
type lines struct {
	mu  sync.Mutex
	out io.WriteCloser
}

// openFile opens the log, which nobody but its owner can read.
func openFile(c File) (*lines, error) {
	if c.Path == "-" {
		return &lines{out: struct {
			io.Writer
			io.Closer
		}{os.Stdout, io.NopCloser(nil)}}, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the audit log: %w", err)
	}
	f, err := os.OpenFile(c.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) // rotated logs have the mode of the first
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return &lines{out: &lumberjack.Logger{Filename: c.Path, MaxAge: c.MaxAge, MaxBackups: c.MaxBackups, MaxSize: c.MaxSize, Compress: c.Compress}}, nil
}

// kindOfEvent stands in each line before the fields of the event.
const kindOfEvent = `{"kind":"Event","apiVersion":"audit.k8s.io/v1",`

func (f *lines) send(_ context.Context, events []*item) error {
	var lines bytes.Buffer
	for _, i := range events {
		data, err := i.json()
		if err != nil {
			return err
		}
		lines.WriteString(kindOfEvent)
		lines.Write(data[1:])
		lines.WriteByte('\n')
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.out.Write(lines.Bytes())
	return err
}

func (f *lines) parallel() int { return 1 }

func (f *lines) close() error { return f.out.Close() }
