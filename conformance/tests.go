package main

import (
	"errors"
	"fmt"
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

// choose picks the tests to run.
func choose(s settings) ([]test, error) {
	focus, err := regexp.Compile(s.focus)
	if err != nil {
		return nil, fmt.Errorf("focus: %w", err)
	}
	tiers := strings.Split(s.tier, ",")
	tests := slices.DeleteFunc(allTests(), func(t test) bool {
		return s.tier != "" && !slices.Contains(tiers, t.tier) || !focus.MatchString(t.name)
	})
	if len(tests) == 0 {
		return nil, errors.New("no test is of that tier and matches that focus")
	}
	return tests, nil
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
