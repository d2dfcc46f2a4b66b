package env

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// fileKey is the value of a key in an environment file on one of the pod's volumes (KEP-3721).
func (r *resolver) fileKey(ref *v1.FileKeySelector) (string, bool, error) {
	dir := r.VolumePath(ref.VolumeName)
	if dir == "" {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	data, err := readWithin(dir, ref.Path)
	if err != nil {
		return "", false, errors.New("couldn't parse env file")
	}
	value, err := fileValue(string(data), ref.Key)
	if err != nil {
		return "", false, errors.New("couldn't parse env file")
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, ref.Path)
	}
	return value, value != "", nil
}

// readWithin reads a file of a volume; links may not lead out of it.
func readWithin(dir, path string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// fileValue finds a key in an environment file: lines KEY='value', where the value is literal and may go
// over several lines; blank lines and comments are skipped. A key that is not there is "", as is one
// with a blank before its value, which a shell would take for empty too.
func fileValue(text, key string) (string, error) {
	for n := 1; text != ""; n++ {
		line, rest, _ := strings.Cut(text, "\n")
		line = strings.TrimLeft(strings.TrimSuffix(line, "\r"), " \t")
		if line == "" || line[0] == '#' {
			text = rest
			continue
		}
		name, value, found := strings.Cut(line, "=")
		switch {
		case !found:
			return "", fmt.Errorf("invalid environment variable format at line %d: missing '='", n)
		case name == "":
			return "", fmt.Errorf("invalid environment variable format at line %d: empty variable name", n)
		case strings.TrimRight(name, " \t") != name:
			return "", fmt.Errorf("invalid environment variable format at line %d: whitespace before '=' is not allowed", n)
		case strings.TrimLeft(value, " \t") != value:
			if name == key {
				return "", nil
			}
			text = rest
			continue
		case !strings.HasPrefix(value, "'"):
			return "", fmt.Errorf("invalid environment variable format at line %d: value must be enclosed in single quotes", n)
		}

		_, after, _ := strings.Cut(text, "='")
		value, after, found = strings.Cut(after, "'")
		if !found {
			return "", fmt.Errorf("invalid environment variable format starting at line %d: unclosed single quote", n)
		}
		tail, rest, _ := strings.Cut(after, "\n")
		if tail = strings.TrimSpace(tail); tail != "" && tail[0] != '#' {
			return "", fmt.Errorf("invalid environment variable format at line %d: unexpected content after closing quote", n)
		}
		if name == key {
			return value, nil
		}
		n += strings.Count(value, "\n")
		text = rest
	}
	return "", nil
}
