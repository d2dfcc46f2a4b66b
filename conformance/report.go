package main

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The outcome of a test in a run.
const (
	passed = "passed"
	failed = "failed"
	notRun = "not run"
)

// junit is what of a JUnit report is read here.
type junit struct {
	Suites []struct {
		Cases []struct {
			Name    string   `xml:"name,attr"`
			Status  string   `xml:"status,attr"`
			Failure *problem `xml:"failure"`
			Error   *problem `xml:"error"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// problem is why a test failed. One that panicked has no message.
type problem struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

type outcome struct{ result, reason string }

// outcomes reads the reports of a run, by the name of the test.
func outcomes(dir string) (map[string]outcome, error) {
	files, err := filepath.Glob(filepath.Join(dir, "junit*.xml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("the suite left no report in %s; the log beside it may say why", dir)
	}
	found := make(map[string]outcome)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var report junit
		if err := xml.Unmarshal(data, &report); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, suite := range report.Suites {
			for _, c := range suite.Cases {
				name := plainName(c.Name)
				if p := cmp.Or(c.Failure, c.Error); p != nil {
					found[name] = outcome{failed, firstLine(cmp.Or(p.Message, p.Text))}
				} else if c.Status == "passed" {
					found[name] = outcome{result: passed}
				}
			}
		}
	}
	return found, nil
}

// plainName is a test's name without "[It] " and the labels that ginkgo adds
// at the end.
func plainName(name string) string {
	name = strings.TrimPrefix(name, "[It] ")
	if i := strings.Index(name, "[Conformance]"); i >= 0 {
		name = name[:i+len("[Conformance]")]
	}
	return name
}

// firstLine is what a failure says first. Of a panic that is what was thrown,
// which comes after the place.
func firstLine(text string) string {
	text = strings.TrimPrefix(strings.TrimSpace(text), "[FAILED] ")
	if thrown, ok := strings.CutPrefix(text, "[PANICKED] Test Panicked\n"); ok {
		_, thrown, _ = strings.Cut(thrown, "\n")
		text = "panic: " + strings.TrimSpace(thrown)
	}
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > 200 {
		line = strings.ToValidUTF8(line[:200], "") + "…"
	}
	return cell(line)
}

// cell keeps a text within its cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

// oracleHeading begins the part of the results that conformance/oracle writes.
const oracleHeading = "## The oracle\n"

// report prints the results of the tests chosen, writes them down if that was
// asked for, and fails unless all tests passed.
func (s settings) report(tests []test, begin time.Time) error {
	took := time.Since(begin)
	found, err := outcomes(filepath.Join(s.dir, "reports"))
	if err != nil {
		return err
	}
	version, err := exec.Command(s.skiff, "version").Output()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w", s.skiff, err)
	}
	var text bytes.Buffer
	of := fmt.Sprintf("of its %d tests", len(allTests()))
	if s.beyond {
		of = "tests that are not in it"
	}
	fmt.Fprintf(&text, "# Results of the conformance suite\n\nKubernetes v1.36.3, %d %s.%s%s%s\n\n", len(tests), of, named("Tier", s.tier), named("Focus", s.focus), named("Skip", s.skip))
	if engine, _, found := strings.Cut(s.storage, "://"); found {
		fmt.Fprintf(&text, "Storage: `%s://`.\n\n", engine)
	}
	if s.hydrophone {
		fmt.Fprint(&text, "The suite ran in a pod of the cluster, by Hydrophone.\n\n")
	}
	fmt.Fprintf(&text, "Date: %s. Commit: %s. Tests ran for %v, %d at once, RBAC on, protobuf.\n\n",
		begin.UTC().Format("2006-01-02 15:04 UTC"), strings.TrimSpace(strings.TrimPrefix(string(version), "skiff ")), took.Round(time.Second), s.procs)
	notPassed := tables(&text, tests, found)
	if s.needsNodes(tests) {
		differences, err := os.ReadFile(filepath.Join(s.images, "differences.md"))
		if err != nil {
			return fmt.Errorf("what the images differ in: %w", err)
		}
		fmt.Fprintf(&text, "\n## Images\n\nAll images were made here, under their upstream names. Differences that a test could notice:\n\n%s", differences)
	}
	fmt.Printf("\n%s\nThe reports are in %s.\n", text.Bytes(), filepath.Join(s.dir, "reports"))
	if s.to != "" {
		if err := writeResults(s.to, text.String()); err != nil {
			return err
		}
	}
	if notPassed > 0 {
		return fmt.Errorf("%d of %d tests did not pass", notPassed, len(tests))
	}
	return nil
}

// writeResults replaces the suite's part of a file of results.
func writeResults(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, oracle, found := strings.Cut(string(old), oracleHeading); found {
		text += "\n" + oracleHeading + oracle
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// tables writes how many tests passed, by capability, and why others failed.
func tables(to io.Writer, tests []test, found map[string]outcome) (notPassed int) {
	counts := make(map[string]map[string]int)
	total := make(map[string]int)
	var failures []string
	for _, t := range tests {
		o, ok := found[plainName(t.name)]
		if !ok {
			o = outcome{result: notRun}
		}
		if counts[t.group] == nil {
			counts[t.group] = make(map[string]int)
		}
		counts[t.group][o.result]++
		total[o.result]++
		if o.result == failed {
			failures = append(failures, fmt.Sprintf("| %s | %s | %s |", t.group, cell(t.name), o.reason))
		}
	}
	fmt.Fprintf(to, "**%d passed, %d failed, %d not run.**\n\n", total[passed], total[failed], total[notRun])
	fmt.Fprintln(to, "| capability | passed | failed | not run |\n|---|---|---|---|")
	for _, group := range slices.Sorted(maps.Keys(counts)) {
		c := counts[group]
		fmt.Fprintf(to, "| %s | %d | %d | %d |\n", group, c[passed], c[failed], c[notRun])
	}
	if len(failures) > 0 {
		slices.Sort(failures)
		fmt.Fprintf(to, "\n## Failures\n\n| capability | test | first line |\n|---|---|---|\n%s\n", strings.Join(failures, "\n"))
	}
	return len(tests) - total[passed]
}

func named(what, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf(" %s: `%s`.", what, value)
}
