package env

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// maxFile is how many bytes an environment file may have. No program can be started with as much in its
// environment.
const maxFile = 4 << 20

// fileKey is the value of a key in an environment file on one of the pod's volumes (KEP-3721).
func (r *resolver) fileKey(ctx context.Context, ref *v1.FileKeySelector) (string, bool, error) {
	dir := r.VolumePath(ref.VolumeName)
	if dir == "" {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	value, err := readKey(ctx, dir, ref.Path, ref.Key)
	if err != nil {
		slog.Warn("environment file not read", "pod", r.Pod.Namespace+"/"+r.Pod.Name, "error", err)
		return "", false, errors.New("couldn't parse env file")
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, value != "", nil
}

// readKey reads a key's value from a file of a volume, which containers wrote.
func readKey(ctx context.Context, dir, path, key string) (string, error) {
	data, err := untrusted.ReadAll(ctx, filepath.Join(dir, path), maxFile, func() (*os.File, error) {
		return untrusted.OpenWithin(dir, path)
	})
	if err != nil {
		return "", err
	}
	return fileValue(string(data), key)
}

// fileValue finds a key in an environment file: lines KEY='value', where the value is literal and may go
// over several lines; blank lines and comments are skipped. A key that is not there is "", as is one
// with a blank before its value, which a shell would take for empty too. What comes after the key is not
// looked at.
func fileValue(text, key string) (string, error) {
	f := envFile{lines: bufio.NewScanner(strings.NewReader(text))}
	for f.next() {
		name, value, err := f.assignment()
		if err != nil {
			return "", err
		}
		if name == key {
			return value, nil
		}
	}
	return "", f.lines.Err() // of a line that is too long
}

// envFile is an environment file that is read line by line.
type envFile struct {
	lines  *bufio.Scanner
	number int
}

func (f *envFile) next() bool {
	f.number++
	return f.lines.Scan()
}

// assignment reads the one that begins on this line, up to its closing quote. The name is "" when there
// is none.
func (f *envFile) assignment() (name, value string, err error) {
	line := strings.TrimLeft(f.lines.Text(), " \t")
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	name, value, found := strings.Cut(line, "=")
	switch {
	case !found:
		return "", "", fmt.Errorf("invalid environment variable format at line %d: missing '='", f.number)
	case strings.TrimRight(name, " \t") == "":
		return "", "", fmt.Errorf("invalid environment variable format at line %d: empty variable name", f.number)
	case strings.TrimRight(name, " \t") != name:
		return "", "", fmt.Errorf("invalid environment variable format at line %d: whitespace before '=' is not allowed", f.number)
	case strings.TrimLeft(value, " \t") != value:
		return name, "", nil
	case !strings.HasPrefix(value, "'"):
		return "", "", fmt.Errorf("invalid environment variable format at line %d: value must be enclosed in single quotes", f.number)
	}
	value, err = f.quoted(value[1:])
	return name, value, err
}

// quoted reads up to the closing quote, on this line or a later one.
func (f *envFile) quoted(rest string) (string, error) {
	start := f.number
	var value strings.Builder
	for {
		text, after, closed := strings.Cut(rest, "'")
		value.WriteString(text)
		if closed {
			if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
				return "", fmt.Errorf("invalid environment variable format at line %d: unexpected content after closing quote", f.number)
			}
			return value.String(), nil
		}
		value.WriteByte('\n')
		if !f.next() {
			return "", fmt.Errorf("invalid environment variable format starting at line %d: unclosed single quote", start)
		}
		rest = f.lines.Text()
	}
}
