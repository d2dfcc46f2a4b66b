package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// ListOptions are those of a list request; see the API documentation,
// "Resource versions", for what they mean together.
type ListOptions struct {
	Match
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string
}

// Page is part of a list: its items in the order of keys, the revision the
// whole list is of, a token for the next page (empty on the last), and how many
// items follow (nil on the last page and where a selector makes it unknown).
type Page struct {
	Items     []*Item
	Revision  int64
	Continue  string
	Remaining *int64
}

// List reads a page. The errors are *InvalidError, *ExpiredError and
// *FutureError and *UnreadableError. Combinations of options the API forbids outright
// (resourceVersionMatch without resourceVersion) are the caller's to refuse.
func (s *Store) List(ctx context.Context, r *resource.Resource, o ListOptions) (*Page, error) {
	k, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	from, err := o.from()
	if err != nil {
		return nil, err
	}
	var v *view
	if from.exact {
		v, err = s.at(ctx, k, from.revision)
	} else {
		v, err = s.atLeast(ctx, k, from.revision)
	}
	if errors.Is(err, ErrExpired) && o.Continue != "" {
		return nil, &ExpiredError{Continue: token{Revision: -1, Start: from.start}.encode()}
	}
	if err != nil {
		return nil, err
	}
	return v.page(o.Match, from.start, from.limit)
}

// origin is what a list shows: everything from a key on at exactly a revision
// or, as in Snapshot, at least one.
type origin struct {
	revision int64
	exact    bool
	start    string // below the prefix that all keys have
	limit    int64  // 0: none
}

// from is the table of "Resource versions" in the API documentation.
func (o ListOptions) from() (origin, error) {
	if o.Continue != "" {
		return o.fromToken()
	}
	if o.ResourceVersion == "" {
		return origin{revision: -1, limit: o.Limit}, nil
	}
	revision, err := ParseVersion(o.ResourceVersion)
	switch {
	case err != nil:
		return origin{}, &InvalidError{fmt.Sprintf("invalid resource version: %v", err)}
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact && o.ResourceVersion == "0":
		return origin{}, &InvalidError{`resourceVersionMatch "exact" is forbidden for resourceVersion "0"`}
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact && revision == 0: // "00": exactly none is the newest
		return origin{revision: -1, limit: o.Limit}, nil
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact:
		return origin{revision: revision, exact: true, limit: o.Limit}, nil
	case revision == 0:
		return origin{}, nil // the real server ignores the limit here
	case o.ResourceVersionMatch == "" && o.Limit > 0:
		return origin{revision: revision, exact: true, limit: o.Limit}, nil
	}
	return origin{revision: revision, limit: o.Limit}, nil
}

func (o ListOptions) fromToken() (origin, error) {
	t, err := decodeToken(o.Continue)
	if err != nil {
		return origin{}, err
	}
	if o.ResourceVersion != "" && o.ResourceVersion != "0" {
		return origin{}, &InvalidError{"specifying resource version is not allowed when using continue"}
	}
	from := origin{revision: t.Revision, exact: t.Revision > 0, start: t.Start, limit: o.Limit}
	if o.ResourceVersion == "0" {
		from.limit = 0 // ignored here as it is without a token
	}
	return from, nil
}

// ParseVersion reads a resourceVersion. It may have 64 bits, and revisions have 63: what is larger is as far away as the largest.
func ParseVersion(version string) (revision int64, err error) {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resourceVersion: Invalid value: %q: %w", version, err)
	}
	return int64(min(n, math.MaxInt64)), nil
}

// page cuts up to limit matching items from start on out of a view.
// ErrUnreadable if that page cannot be read whole.
func (v *view) page(m Match, start string, limit int64) (page *Page, err error) {
	page = &Page{Revision: v.revision}
	limit = min(max(limit, 0), math.MaxInt32) // more items there never are
	prefix := v.k.matcher(m).prefix
	page.Items, err = v.first(m, prefix+start, int(limit))
	if err != nil || limit == 0 || len(page.Items) < int(limit) {
		return page, err
	}
	last := page.Items[limit-1].key
	more := v.after(m, last)
	if more == 0 {
		return page, nil
	}
	if m.plain() {
		page.Remaining = &more
	}
	page.Continue = token{Revision: v.revision, Start: strings.TrimPrefix(last, prefix) + "\x00"}.encode()
	return page, nil
}

// after is how many items follow a key among which a match is looked for, or,
// where not all of them match, whether any does: nobody looks whether it
// matches, so that the last page may be empty.
func (v *view) after(m Match, key string) (n int64) {
	if v.k.matcher(m).key != "" {
		return 0 // there is no other
	}
	if m.plain() && m.Namespace == "" {
		v.items.byKey.AscendGreaterOrEqual(&Item{key: key + "\x00"}, func(*Item) bool { // which looks at none of them
			n++
			return true
		})
		return n
	}
	all := Match{Namespace: m.Namespace, IndexValue: m.IndexValue}
	v.each(all, key+"\x00", func(*Item) bool {
		n++
		return m.plain()
	})
	return n
}

// at is a view of k exactly at a revision.
func (s *Store) at(ctx context.Context, k *kind, revision int64) (*view, error) {
	if err := s.waitFor(ctx, revision); err != nil {
		return nil, err
	}
	if s.expired(revision) {
		return nil, &ExpiredError{}
	}
	if v := k.rewind(revision); v != nil {
		return v, nil
	}
	return s.readBack(ctx, k, revision)
}

func (s *Store) expired(revision int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return revision < s.compacted
}

// readBack lists an old revision from the backend, for when the feed has been
// cut short.
func (s *Store) readBack(ctx context.Context, k *kind, revision int64) (*view, error) {
	old, err := s.load(ctx, k.r, revision)
	if errors.Is(err, backend.ErrCompacted) {
		return nil, &ExpiredError{}
	}
	if err != nil {
		return nil, err
	}
	v := &view{k: k, items: old.items, revision: revision}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remember(v)
	return v, nil
}

// pastViews is how many views of old revisions a kind remembers: the lists
// being paged through at a time.
const pastViews = 16

// rewind makes a view of an old revision by taking back the events since; nil
// if the feed does not reach back so far.
func (k *kind) rewind(revision int64) *view {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, v := range k.past {
		if v.revision == revision {
			return v
		}
	}
	events, known := k.feed.after(revision)
	if !known {
		return nil
	}
	items := k.items.clone()
	for i := len(events) - 1; i >= 0; i-- {
		if e := events[i]; e.Old != nil {
			items.put(e.Old)
		} else {
			items.remove(e.New.key)
		}
	}
	v := &view{k: k, items: items, revision: revision}
	k.remember(v)
	return v
}

// remember keeps a view for the next page of the same list.
func (k *kind) remember(v *view) {
	k.past = append([]*view{v}, k.past[:min(len(k.past), pastViews-1)]...)
}

// forget drops the views of expired revisions.
func (k *kind) forget(compacted int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var kept []*view
	for _, v := range k.past {
		if v.revision >= compacted {
			kept = append(kept, v)
		}
	}
	k.past = kept
}

// token is a continue token, in the format of Kubernetes: the list's revision
// (-1: the newest, whatever it is then) and the first key of the next page,
// below the prefix of the list: that of the kind and, if it is of one, of the
// namespace.
type token struct {
	Format   string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const tokenFormat = "meta.k8s.io/v1"

func (t token) encode() string {
	t.Format = tokenFormat
	data, err := json.Marshal(t)
	if err != nil {
		panic(err) // a struct of strings and a number
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeToken(text string) (token, error) {
	var t token
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	switch {
	case err != nil:
		return t, &InvalidError{fmt.Sprintf("invalid continue token: continue key is not valid: %v", err)}
	case t.Format != tokenFormat:
		return t, &InvalidError{fmt.Sprintf("invalid continue token: continue key is not valid: server does not recognize this encoded version %s", t.Format)}
	case t.Revision == 0:
		return t, &InvalidError{"invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"}
	case t.Start == "":
		return t, &InvalidError{"invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"}
	}
	if rooted := "/" + strings.TrimPrefix(t.Start, "/"); path.Clean(rooted) != rooted {
		return t, &InvalidError{"invalid continue token: continue key is not valid: " + t.Start}
	}
	t.Start = strings.TrimPrefix(t.Start, "/")
	return t, nil
}
