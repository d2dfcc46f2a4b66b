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
	"sync"
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
	files, err := p.files()
	return "packages " + strings.Join(files, " "), err
}

// Write implements Part.
func (p Packages) Write(root string) error {
	files, err := p.files()
	if err != nil {
		return err
	}
	dir := filepath.Join(p.Cache, "debs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(files), func(file string) bool {
		_, err := os.Stat(filepath.Join(dir, file))
		return err == nil
	})
	if len(missing) > 0 {
		names := make([]string, 0, len(missing))
		for _, file := range missing {
			name, _, _ := strings.Cut(file, "_")
			names = append(names, name)
		}
		if _, err := apt(dir, "apt-get", append([]string{"download", "-q"}, names...)...); err != nil {
			return err
		}
	}
	for _, file := range files {
		if out, err := exec.Command("dpkg-deb", "-x", filepath.Join(dir, file), root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", file, err, bytes.TrimSpace(out))
		}
	}
	for _, needless := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug"} {
		if err := os.RemoveAll(filepath.Join(root, needless)); err != nil {
			return err
		}
	}
	return nil
}

// resolved keeps the files of package lists, which take apt a second to find.
var resolved sync.Map // list of names → []string

// files are the files of the packages and of all they depend on, by the names
// under which apt downloads them.
func (p Packages) files() ([]string, error) {
	key := strings.Join(p.Names, " ") + " - " + strings.Join(p.Without, " ")
	if files, ok := resolved.Load(key); ok {
		return files.([]string), nil
	}
	names, err := p.closure()
	if err != nil {
		return nil, err
	}
	out, err := apt("", "apt-get", append([]string{"download", "-q", "--print-uris"}, names...)...)
	if err != nil {
		return nil, err
	}
	// Each line is 'URI' file size hash.
	var files []string
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 1 {
			files = append(files, fields[1])
		}
	}
	slices.Sort(files)
	resolved.Store(key, files)
	return files, nil
}

// closure lists the packages with their dependencies.
func (p Packages) closure() ([]string, error) {
	out, err := apt("", "apt-cache", append([]string{"depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
		"--no-breaks", "--no-replaces", "--no-enhances"}, p.Names...)...)
	if err != nil {
		return nil, fmt.Errorf("dependencies of %s (apt-get update helps if a package is not known): %w", strings.Join(p.Names, " "), err)
	}
	graph := parseDepends(out)
	without := append(slices.Clone(never), p.Without...)
	var names []string
	for todo := slices.Clone(p.Names); len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if slices.Contains(names, name) || slices.Contains(without, name) {
			continue
		}
		names = append(names, name)
		todo = append(todo, graph[name]...)
	}
	slices.Sort(names)
	return names, nil
}

// dependency matches a dependency in what "apt-cache depends" prints. A leading
// bar marks one for which the next is an alternative; angle brackets a virtual
// package, whose providers follow, indented deeper.
var dependency = regexp.MustCompile(`^ ( |\|)(?:Pre)?Depends: (\S+)$`)

// parseDepends reads what each package needs; of alternatives, the first.
func parseDepends(out string) map[string][]string {
	graph := make(map[string][]string)
	name, alternative := "", false
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, " ") {
			name, alternative = line, false
			continue
		}
		match := dependency.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		if !alternative && !strings.HasPrefix(match[2], "<") {
			graph[name] = append(graph[name], strings.TrimSuffix(match[2], ":any"))
		}
		alternative = match[1] == "|"
	}
	return graph
}

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
