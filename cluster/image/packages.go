package image

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Packages unpacks Debian packages with all they depend on. Their scripts do
// not run.
type Packages struct {
	Names []string
	// Without are packages to leave out, with what only they depend on.
	Without []string
	// Cache is where downloaded packages are kept.
	Cache string
}

// never are packages that serve the set-up of a system, not its programs.
var never = []string{
	"adduser", "debconf", "dpkg", "init-system-helpers", "lsb-base", "passwd", "perl-base", "python3", "python3-minimal", "sysvinit-utils", "tar", "ucf",
}

// Key implements Part: packages stand for themselves by name and version.
func (p Packages) Key() (string, error) {
	names, err := p.closure()
	if err != nil {
		return "", err
	}
	files, err := uris(names...)
	if err != nil {
		return "", err
	}
	var versions []string
	for line := range strings.Lines(files) {
		if fields := strings.Fields(line); len(fields) > 1 {
			versions = append(versions, fields[1])
		}
	}
	slices.Sort(versions)
	return "packages " + strings.Join(versions, " "), nil
}

// Write implements Part.
func (p Packages) Write(root string) error {
	names, err := p.closure()
	if err != nil {
		return err
	}
	dir := filepath.Join(p.Cache, "debs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		file, err := fetch(dir, name)
		if err != nil {
			return err
		}
		if out, err := exec.Command("dpkg-deb", "-x", file, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", name, err, bytes.TrimSpace(out))
		}
	}
	for _, needless := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug"} {
		if err := os.RemoveAll(filepath.Join(root, needless)); err != nil {
			return err
		}
	}
	return nil
}

// closure lists the packages with their dependencies.
func (p Packages) closure() ([]string, error) {
	without := append(slices.Clone(never), p.Without...)
	var names []string
	for todo := slices.Clone(p.Names); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if slices.Contains(names, name) || slices.Contains(without, name) {
			continue
		}
		depends, err := dependencies(name)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
		todo = append(todo, depends...)
	}
	slices.Sort(names)
	return names, nil
}

// dependency matches a line of "apt-cache depends". A leading bar marks the
// first of alternatives; angle brackets a virtual package, whose providers
// follow indented deeper.
var dependency = regexp.MustCompile(`^ ( |\|)(?:Pre)?Depends: ([^<\s]+)$`)

// anew makes apt look at the distribution alone, not at what happens to be
// installed on this machine.
var anew = []string{"-o", "Dir::State::status=/dev/null"}

// apt runs one of apt's programs and returns what it prints.
func apt(dir, program string, args ...string) (string, error) {
	cmd := exec.Command(program, append(slices.Clone(anew), args...)...)
	cmd.Dir = dir
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(failure.Bytes()))
	}
	return string(out), nil
}

// dependencies are the packages one needs directly; of alternatives, the first.
func dependencies(name string) ([]string, error) {
	out, err := apt("", "apt-cache", "depends", "--no-recommends", "--no-suggests", "--no-conflicts",
		"--no-breaks", "--no-replaces", "--no-enhances", name)
	if err != nil {
		return nil, fmt.Errorf("dependencies of package %s (apt-get update helps if it is not known): %w", name, err)
	}
	var names []string
	alternative := false
	for line := range strings.Lines(out) {
		match := dependency.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if match == nil {
			continue
		}
		if !alternative {
			names = append(names, strings.TrimSuffix(match[2], ":any"))
		}
		alternative = match[1] == "|"
	}
	return names, nil
}

// uris are the lines "'URI' file size hash" of packages.
func uris(names ...string) (string, error) {
	return apt("", "apt-get", append([]string{"download", "-q", "--print-uris"}, names...)...)
}

// fetch downloads a package unless its current version is in dir already.
func fetch(dir, name string) (file string, err error) {
	uri, err := uris(name)
	if err != nil {
		return "", err
	}
	fields := strings.Fields(uri)
	if len(fields) < 2 {
		return "", fmt.Errorf("package %s cannot be downloaded", name)
	}
	file = filepath.Join(dir, fields[1])
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if _, err := apt(dir, "apt-get", "download", "-q", name); err != nil {
		return "", err
	}
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("download package %s: %w", name, err)
	}
	return file, nil
}
