package route

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// claim is what one Ingress wants of a host.
type claim struct {
	*compiled
	*share
}

// merge makes a host of what Ingresses say about it, the oldest first: what the older has the younger does not get. told
// is called with what an Ingress does not get.
func merge(name string, claims []claim, told func(Key, string)) *host {
	h := &host{exact: make(map[string]*Location)}
	claims = withoutAliases(name, claims, told)
	taken := make(map[slot]*Location)
	var stems []*Location
	for _, c := range claims {
		if h.certificate == nil {
			h.certificate = c.certificate
		}
		for _, l := range c.locations {
			if l.Settings.Canary != nil {
				continue
			}
			at := slotOf(l)
			if older, ok := taken[at]; ok {
				told(c.key, fmt.Sprintf("path %s of host %q is that of Ingress %s, which is older", l.Path, name, older.Ingress))
				continue
			}
			own := *l // its canaries are those of this host
			taken[at] = &own
			switch l.kind {
			case exact:
				h.exact[l.Path] = &own
			case expression:
				h.patterns = append(h.patterns, &own)
			default:
				stems = append(stems, &own)
			}
		}
		if h.fallback == nil && c.share.fallback != nil {
			h.fallback = c.share.fallback
		}
	}
	addCanaries(name, claims, taken, told)
	h.prefixes = newPrefixes(stems)
	slices.SortStableFunc(h.patterns, func(a, b *Location) int { return cmp.Compare(len(b.Path), len(a.Path)) })
	return h
}

// slot is what two locations of a host cannot both have.
type slot struct {
	kind pathKind
	text string
}

func slotOf(l *Location) slot {
	if l.kind == folder {
		return slot{folder, prefixText(l)}
	}
	return slot{l.kind, l.Path}
}

// withoutAliases leaves aliases out where an Ingress has the name as a host.
func withoutAliases(name string, claims []claim, told func(Key, string)) []claim {
	isAlias := func(c claim) bool { return c.alias }
	if !slices.ContainsFunc(claims, func(c claim) bool { return !c.alias }) {
		return claims
	}
	for _, c := range claims {
		if c.alias {
			told(c.key, fmt.Sprintf("the name %q is the host of another Ingress and cannot be an alias", name))
		}
	}
	return slices.DeleteFunc(slices.Clone(claims), isAlias)
}

// addCanaries gives canaries to the locations with the same path, if those are of the same namespace: nobody else may
// take a part of their requests.
func addCanaries(name string, claims []claim, taken map[slot]*Location, told func(Key, string)) {
	for _, c := range claims {
		for _, l := range c.locations {
			if l.Settings.Canary == nil {
				continue
			}
			main, ok := taken[slotOf(l)]
			switch {
			case !ok:
				told(c.key, fmt.Sprintf("no other Ingress has the path %s of host %q, of which this is to be a canary", l.Path, name))
			case main.Ingress.Namespace != c.key.Namespace:
				told(c.key, fmt.Sprintf("path %s of host %q is that of Ingress %s; a canary must be in its namespace", l.Path, name, main.Ingress))
			default:
				main.Canaries = append(main.Canaries, l)
			}
		}
	}
}

// www is the other name of a host that is sent to it.
func www(name string) string {
	if rest, ok := strings.CutPrefix(name, "www."); ok {
		return rest
	}
	return "www." + name
}
