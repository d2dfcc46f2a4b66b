package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
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
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"failure"`
			Error *struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"error"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

type outcome struct{ result, reason string }

// outcomes reads the reports of a run, by the name of the test.
func outcomes(dir string) (map[string]outcome, error) {
	files, err := filepath.Glob(filepath.Join(dir, "junit*.xml"))
	if err != nil {
		return nil, err
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
				switch {
				case c.Failure != nil:
					found[name] = outcome{failed, firstLine(cmp.Or(c.Failure.Message, c.Failure.Text))}
				case c.Error != nil:
					found[name] = outcome{failed, firstLine(cmp.Or(c.Error.Message, c.Error.Text))}
				case c.Status == "passed":
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

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(text), "[FAILED] "), "\n")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	return strings.ReplaceAll(line, "|", "\\|")
}

// report writes the results of the tests chosen.
func (s settings) report(tests []test, begin time.Time) error {
	found, err := outcomes(filepath.Join(s.dir, "reports"))
	if err != nil {
		return err
	}
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
			failures = append(failures, fmt.Sprintf("| %s | %s | %s |", t.group, strings.ReplaceAll(t.name, "|", "\\|"), o.reason))
		}
	}
	var out io.Writer = os.Stdout
	if s.to != "" {
		file, err := os.Create(s.to)
		if err != nil {
			return err
		}
		defer file.Close()
		out = io.MultiWriter(file, os.Stdout)
	}
	fmt.Fprintf(out, "# Results of the conformance suite\n\nKubernetes v1.36.3, %d tests chosen of %d.%s%s\n\n", len(tests), len(allTests()), named("Tier", s.tier), named("Focus", s.focus))
	if s.hydrophone {
		fmt.Fprint(out, "The suite ran in a pod of the cluster, by Hydrophone.\n\n")
	}
	fmt.Fprintf(out, "Date: %s. Commit: %s. Tests ran for %v, %d at once, RBAC on, protobuf.\n\n", begin.UTC().Format("2006-01-02 15:04 UTC"), commit(), time.Since(begin).Round(time.Second), s.procs)
	fmt.Fprintf(out, "**%d passed, %d failed, %d not run.**\n\n", total[passed], total[failed], total[notRun])
	fmt.Fprintln(out, "| capability | passed | failed | not run |\n|---|---|---|---|")
	for _, group := range groups(counts) {
		c := counts[group]
		fmt.Fprintf(out, "| %s | %d | %d | %d |\n", group, c[passed], c[failed], c[notRun])
	}
	if len(failures) > 0 {
		slices.Sort(failures)
		fmt.Fprintf(out, "\n## Failures\n\n| capability | test | first line |\n|---|---|---|\n%s\n", strings.Join(failures, "\n"))
	}
	if !s.needsNodes(tests) {
		return nil
	}
	differences, err := os.ReadFile(filepath.Join(s.images, "differences.md"))
	if err != nil {
		return fmt.Errorf("what the images differ in: %w", err)
	}
	fmt.Fprintf(out, "\n## Images\n\nAll images were made here, under their upstream names. Differences that a test could notice:\n\n%s", differences)
	if s.to == "" {
		return nil
	}
	// What the other instrument found stands in the same file.
	oracle, err := os.ReadFile(filepath.Join(filepath.Dir(s.to), "oracle", "results.md"))
	if err != nil {
		return fmt.Errorf("what the oracle found: %w", err)
	}
	fmt.Fprintf(out, "\n%s", oracle)
	return nil
}

func named(what, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf(" %s: `%s`.", what, value)
}

func groups(counts map[string]map[string]int) []string {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// commit is what was tested; "-dirty" if the tree had changes.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
