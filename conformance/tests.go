package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// test is a line of the list of tests.
type test struct {
	name, tier, group string
	serial            bool
}

func allTests() []test {
	var tests []test
	for i, line := range strings.Split(strings.TrimSpace(testList), "\n") {
		if fields := strings.Split(line, "\t"); i > 0 {
			tests = append(tests, test{name: fields[0], serial: fields[1] == "yes", tier: fields[2], group: fields[3]})
		}
	}
	return tests
}

// otherTests asks the suite's program for its tests that are not of the
// conformance suite. Their tier is "beyond", their group is the interest group
// that wrote them.
func otherTests(program string) ([]test, error) {
	list, err := exec.Command(program, "-list-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its tests: %w", program, err)
	}
	return parseTests(string(list)), nil
}

// parseTests reads a list of "file:line: name".
func parseTests(list string) []test {
	var tests []test
	for line := range strings.Lines(list) {
		_, name, found := strings.Cut(strings.TrimSpace(line), ": ")
		group, _, marked := strings.Cut(strings.TrimPrefix(name, "[sig-"), "]")
		if found && marked && strings.HasPrefix(name, "[sig-") && !strings.Contains(name, "[Conformance]") {
			tests = append(tests, test{name: name, tier: "beyond", group: group, serial: strings.Contains(name, "[Serial]")})
		}
	}
	return tests
}

// choose picks the tests to run: of the conformance suite, or of all else that
// e2e.test has.
func choose(s settings) ([]test, error) {
	focus, err := regexp.Compile(s.focus)
	if err != nil {
		return nil, fmt.Errorf("focus: %w", err)
	}
	skip, err := regexp.Compile(cmp.Or(s.skip, "$^"))
	if err != nil {
		return nil, fmt.Errorf("skip: %w", err)
	}
	all := allTests()
	if s.beyond {
		if all, err = otherTests(filepath.Join(s.tools, "e2e.test")); err != nil {
			return nil, err
		}
	}
	var tiers []string
	if s.tier != "" {
		tiers = strings.Split(s.tier, ",")
	}
	for _, tier := range tiers {
		if !slices.Contains(tiersOf(all), tier) {
			return nil, fmt.Errorf("there is no tier %q; there are %s", tier, strings.Join(tiersOf(all), ", "))
		}
	}
	tests := slices.DeleteFunc(all, func(t test) bool {
		return tiers != nil && !slices.Contains(tiers, t.tier) || !focus.MatchString(t.name) || skip.MatchString(t.name)
	})
	if len(tests) == 0 {
		return nil, errors.New("no test is of that tier and matches that focus")
	}
	return tests, nil
}

// tiersOf lists what the tests need.
func tiersOf(tests []test) []string {
	found := make(map[string]bool)
	for _, t := range tests {
		found[t.tier] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// focus is a regular expression that matches the names of the tests alone.
func focus(tests []test) string {
	names := make([]string, 0, len(tests))
	for _, t := range tests {
		names = append(names, regexp.QuoteMeta(t.name))
	}
	return strings.Join(names, "|")
}

// needsNodes reports whether any of the tests runs pods, or the suite is to run
// in one itself.
func (s settings) needsNodes(tests []test) bool {
	return s.hydrophone || slices.ContainsFunc(tests, func(t test) bool { return t.tier != "api" })
}
