package batch

import (
	"slices"
	"testing"
)

func TestParseIndexes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []indexRange
		err        string
	}{
		{name: "none"},
		{name: "one", text: "3", want: []indexRange{{3, 3}}},
		{name: "ranges", text: "0-2,4,6-7", want: []indexRange{{0, 2}, {4, 4}, {6, 7}}},
		{name: "falling", text: "4,2", err: "non-increasing order, previous: 4, current: 2"},
		{name: "overlapping", text: "0-4,4", err: "non-increasing order, previous: 4, current: 4"},
		{name: "backwards", text: "5-3", err: "non-increasing order, previous: 5, current: 3"},
		{name: "too large", text: "1-10", err: `too large index: "10"`},
		{name: "no number", text: "1,x", err: `cannot convert string to integer for index: "x"`},
		{name: "three parts", text: "1-2-3", err: `the fragment "1-2-3" violates the requirement that an index interval can have at most two parts separated by '-'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseIndexes(c.text, 10)
			if text := errorText(err); !slices.Equal(got, c.want) || text != c.err {
				t.Errorf("parseIndexes(%q) = %v, %q; want %v, %q", c.text, got, text, c.want, c.err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b  string
		index int32
		found bool
	}{
		{"0-3,5", "4,6-9", 0, false},
		{"0-3,5", "2", 2, true},
		{"0,2,4", "1,3,4-5", 4, true},
		{"", "1", 0, false},
		{"x,3", "3", 3, true}, // what is no range is passed over
	} {
		if index, found := overlap(c.a, c.b, 10); index != c.index || found != c.found {
			t.Errorf("overlap(%q, %q) = %d, %t; want %d, %t", c.a, c.b, index, found, c.index, c.found)
		}
	}
}
