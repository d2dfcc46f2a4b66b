package route

import (
	"cmp"
	"slices"
	"strings"
)

// pathKind is how a path of a rule matches.
type pathKind int

const (
	// stem is a prefix of letters, as ImplementationSpecific has it: /a is the beginning of /ab.
	stem pathKind = iota
	// folder is a prefix of whole elements (pathType Prefix).
	folder
	exact
	expression
)

// Clean is a decoded path as rules are compared with: without empty elements, "." and "..". It is false for a path that
// leads out of the root or has a zero byte.
func Clean(path string) (string, bool) {
	if path == "" {
		return "/", true
	}
	if path[0] != '/' || strings.IndexByte(path, 0) >= 0 {
		return "", false
	}
	if !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path, true
	}
	elements := strings.Split(path[1:], "/")
	kept := elements[:0]
	for i, e := range elements {
		last := i == len(elements)-1
		switch e {
		case ".", "":
			if last {
				kept = append(kept, "")
			}
		case "..":
			if len(kept) == 0 {
				return "", false
			}
			kept = kept[:len(kept)-1]
			if last {
				kept = append(kept, "")
			}
		default:
			kept = append(kept, e)
		}
	}
	return "/" + strings.Join(kept, "/"), true
}

// HasDots reports whether a path has elements that are "." or "..". A path that was clean has them after a rewrite only if
// somebody would get out of where the rewrite leads.
func HasDots(path string) bool {
	path += "/"
	return strings.Contains(path, "/./") || strings.Contains(path, "/../")
}

// prefixes finds the longest prefix of a path among many, in time that does not grow with how many there are.
type prefixes []prefix

// prefix is an entry of the list, which is in ascending order of text and kind.
type prefix struct {
	text string
	*Location
	parent int // the next shorter prefix of text; -1: none
}

func newPrefixes(locations []*Location) prefixes {
	list := make(prefixes, 0, len(locations))
	for _, l := range locations {
		list = append(list, prefix{text: prefixText(l), Location: l})
	}
	slices.SortFunc(list, func(a, b prefix) int { return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.kind, b.kind)) })
	for i := range list {
		parent := i - 1
		for parent >= 0 && !strings.HasPrefix(list[i].text, list[parent].text) {
			parent = list[parent].parent
		}
		list[i].parent = parent
	}
	return list
}

// prefixText is what a path begins with that a location is for. The slash at the end of a folder is nothing of it.
func prefixText(l *Location) string {
	if l.kind == folder {
		return strings.TrimRight(l.Path, "/")
	}
	return l.Path
}

// longest walks from the last entry that is not beyond path to shorter ones: every prefix of path is among them.
func (list prefixes) longest(path string) *Location {
	i, _ := slices.BinarySearchFunc(list, path, func(p prefix, path string) int {
		if p.text <= path {
			return -1
		}
		return 1
	})
	i--
	if i < 0 {
		return nil
	}
	common := commonLength(list[i].text, path)
	for ; i >= 0; i = list[i].parent {
		p := list[i]
		if len(p.text) > common {
			continue
		}
		if p.kind == stem || len(p.text) == len(path) || path[len(p.text)] == '/' {
			return p.Location
		}
	}
	return nil
}

func commonLength(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
