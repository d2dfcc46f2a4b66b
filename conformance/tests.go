package main

import (
	"errors"
	"fmt"
	"maps"
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
	all := allTests()
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
		return tiers != nil && !slices.Contains(tiers, t.tier) || !focus.MatchString(t.name)
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
