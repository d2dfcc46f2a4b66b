package store_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

func list(t testing.TB, s *store.Store, o store.ListOptions) *store.Page {
	t.Helper()
	page, err := s.List(t.Context(), configMaps, o)
	if err != nil {
		t.Fatalf("list %+v: %v", o, err)
	}
	return page
}

// names are the keys of a page with their data: "a/x=1 …".
func names(items []*store.Item) string {
	var parts []string
	for _, i := range items {
		parts = append(parts, fmt.Sprintf("%s/%s=%s", i.Object().GetNamespace(), i.Object().GetName(), dataOf(i)))
	}
	return strings.Join(parts, " ")
}

func version(revision int64) string { return strconv.FormatInt(revision, 10) }

// The table of "Resource versions" in the API documentation. The state at r1
// is x=1, at r2 x=2, and at r3, the newest, y=1 as well.
func TestResourceVersions(t *testing.T) {
	s := open(t)
	r1 := create(t, s, "a", "x", "1").Revision()
	r2 := update(t, s, "a", "x", "2").Revision()
	r3 := create(t, s, "a", "y", "1").Revision()
	const exact, notOlder = metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan
	for _, c := range []struct {
		name     string
		options  store.ListOptions
		want     string
		revision int64
		more     bool
	}{
		{"most recent", store.ListOptions{}, "a/x=2 a/y=1", r3, false},
		{"most recent, paged", store.ListOptions{Limit: 1}, "a/x=2", r3, true},
		{"any", store.ListOptions{ResourceVersion: "0"}, "a/x=2 a/y=1", r3, false},
		{"any ignores the limit", store.ListOptions{ResourceVersion: "0", Limit: 1}, "a/x=2 a/y=1", r3, false},
		{"any by match", store.ListOptions{ResourceVersion: "0", ResourceVersionMatch: notOlder}, "a/x=2 a/y=1", r3, false},
		{"not older than by default", store.ListOptions{ResourceVersion: version(r1)}, "a/x=2 a/y=1", r3, false},
		{"not older than", store.ListOptions{ResourceVersion: version(r1), ResourceVersionMatch: notOlder}, "a/x=2 a/y=1", r3, false},
		{"not older than, paged", store.ListOptions{ResourceVersion: version(r1), ResourceVersionMatch: notOlder, Limit: 1}, "a/x=2", r3, true},
		{"exact", store.ListOptions{ResourceVersion: version(r1), ResourceVersionMatch: exact}, "a/x=1", r1, false},
		{"exact in between", store.ListOptions{ResourceVersion: version(r2), ResourceVersionMatch: exact}, "a/x=2", r2, false},
		{"exact and newest", store.ListOptions{ResourceVersion: version(r3), ResourceVersionMatch: exact}, "a/x=2 a/y=1", r3, false},
		{"a limit makes it exact", store.ListOptions{ResourceVersion: version(r1), Limit: 5}, "a/x=1", r1, false},
		{"before the first object", store.ListOptions{ResourceVersion: version(r1), ResourceVersionMatch: exact, Match: store.Match{Name: "y"}}, "", r1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			page := list(t, s, c.options)
			if got := names(page.Items); got != c.want || page.Revision != c.revision || (page.Continue != "") != c.more {
				t.Errorf("got %q at %d, continue %q; want %q at %d, more: %v", got, page.Revision, page.Continue, c.want, c.revision, c.more)
			}
		})
	}
}

func tokenOf(v string, rv int64, start string) string {
	data, err := json.Marshal(map[string]any{"v": v, "rv": rv, "start": start})
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func TestInvalidVersions(t *testing.T) {
	s := open(t)
	create(t, s, "a", "x", "1")
	for _, c := range []struct {
		name    string
		options store.ListOptions
		want    string
	}{
		{"no number", store.ListOptions{ResourceVersion: "abc"}, "invalid resource version"},
		{"negative", store.ListOptions{ResourceVersion: "-1"}, "invalid resource version"},
		{"exactly nothing", store.ListOptions{ResourceVersion: "0", ResourceVersionMatch: metav1.ResourceVersionMatchExact}, "forbidden"},
		{"token with a version", store.ListOptions{ResourceVersion: "1", Continue: tokenOf("meta.k8s.io/v1", 1, "a/x")}, "not allowed when using continue"},
		{"token that is no base64", store.ListOptions{Continue: "?"}, "continue key is not valid"},
		{"token that is no JSON", store.ListOptions{Continue: "abcd"}, "continue key is not valid"},
		{"token of another format", store.ListOptions{Continue: tokenOf("meta.k8s.io/v2", 1, "a/x")}, "does not recognize this encoded version"},
		{"token without a revision", store.ListOptions{Continue: tokenOf("meta.k8s.io/v1", 0, "a/x")}, "incorrect encoded start resourceVersion"},
		{"token without a key", store.ListOptions{Continue: tokenOf("meta.k8s.io/v1", 1, "")}, "encoded start key empty"},
		{"token that climbs", store.ListOptions{Continue: tokenOf("meta.k8s.io/v1", 1, "../secrets/x")}, "continue key is not valid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.List(t.Context(), configMaps, c.options)
			if !errors.Is(err, store.ErrInvalidVersion) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrInvalidVersion with %q", err, c.want)
			}
		})
	}
}

// Pages show one revision, whatever is written between them.
func TestPages(t *testing.T) {
	s := open(t)
	var want []string
	for i := range 40 {
		name := fmt.Sprintf("n%02d", i)
		create(t, s, "a", name, "1")
		want = append(want, "a/"+name+"=1")
	}
	create(t, s, "b", "other", "1")
	at, _ := s.Revision(t.Context())
	var got []string
	o := store.ListOptions{Match: store.Match{Namespace: "a"}, Limit: 17}
	for _, remaining := range []int64{23, 6, 0} {
		page := list(t, s, o)
		got = append(got, names(page.Items))
		if page.Revision != at {
			t.Errorf("page is at revision %d, want %d", page.Revision, at)
		}
		switch {
		case remaining == 0 && (page.Remaining != nil || page.Continue != ""):
			t.Errorf("last page has %v remaining and continue %q", page.Remaining, page.Continue)
		case remaining > 0 && (page.Remaining == nil || *page.Remaining != remaining):
			t.Errorf("remaining = %v, want %d", page.Remaining, remaining)
		}
		o.Continue = page.Continue
		if item, err := s.Get(t.Context(), configMaps, "a", "n39"); err == nil {
			remove(t, s, item)
		}
		update(t, s, "a", "n20", fmt.Sprint(remaining))
	}
	if got, want := strings.Join(got, " "), strings.Join(want, " "); got != want {
		t.Errorf("pages show %s\nwant %s", got, want)
	}
}

// Tokens as kube-apiserver makes them: the key in them is below that of the
// namespace if the list is of one.
func TestTokens(t *testing.T) {
	s := open(t)
	for _, namespace := range []string{"a", "b"} {
		for _, name := range []string{"m0", "m1", "m2"} {
			create(t, s, namespace, name, "1")
		}
	}
	token := func(start string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v1","rv":-1,"start":"` + start + `"}`))
	}
	inB := store.Match{Namespace: "b"}
	for _, c := range []struct {
		name    string
		options store.ListOptions
		want    string
	}{
		{"namespace", store.ListOptions{Match: inB, Limit: 1, Continue: token("m1")}, "b/m1=1"},
		{"all namespaces", store.ListOptions{Limit: 2, Continue: token("a/m2")}, "a/m2=1 b/m0=1"},
		{"version 0 has no limit", store.ListOptions{Match: inB, Limit: 1, Continue: token("m1"), ResourceVersion: "0"}, "b/m1=1 b/m2=1"},
	} {
		page := list(t, s, c.options)
		if got := names(page.Items); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	page := list(t, s, store.ListOptions{Match: inB, Limit: 1})
	if raw, err := base64.RawURLEncoding.DecodeString(page.Continue); err != nil || !strings.HasSuffix(string(raw), `"start":"m0\u0000"}`) {
		t.Errorf("token is %s, %v; want it to start after m0", raw, err)
	}
}

func TestPagesBySelector(t *testing.T) {
	s := open(t)
	for i := range 10 {
		create(t, s, "a", fmt.Sprintf("n%d", i), fmt.Sprint(i%2))
	}
	o := store.ListOptions{Limit: 2, Match: store.Match{Select: func(obj resource.Object) bool {
		return dataOf(mustGet(t, s, obj)) == "1"
	}}}
	var got []string
	for range 3 {
		page := list(t, s, o)
		got = append(got, names(page.Items))
		if page.Remaining != nil {
			t.Errorf("remaining = %d, want unknown with a selector", *page.Remaining)
		}
		o.Continue = page.Continue
	}
	if want := []string{"a/n1=1 a/n3=1", "a/n5=1 a/n7=1", "a/n9=1"}; !reflect.DeepEqual(got, want) || o.Continue != "" {
		t.Errorf("pages show %q, then continue %q; want %q and the end", got, o.Continue, want)
	}
}

// With a selector a page that is full has a token while any object follows,
// whether that one is selected or not, as in Kubernetes. Where the name is known
// there is none to follow.
func TestPagesThatMayBeTheLast(t *testing.T) {
	s := open(t)
	for _, name := range []string{"a", "b", "c"} {
		create(t, s, "ns", name, "1")
	}
	for name, more := range map[string]bool{"b": true, "c": false} {
		o := store.ListOptions{Limit: 1, Match: store.Match{Select: func(obj resource.Object) bool { return obj.GetName() == name }}}
		page := list(t, s, o)
		if len(page.Items) != 1 || (page.Continue != "") != more || page.Remaining != nil {
			t.Errorf("%s: got %d items, token %q, remaining %v; want 1, a token: %v, unknown", name, len(page.Items), page.Continue, page.Remaining, more)
		}
		if !more {
			continue
		}
		o.Continue = page.Continue
		if last := list(t, s, o); len(last.Items) != 0 || last.Continue != "" {
			t.Errorf("after %s: got %d items and token %q, want the end", name, len(last.Items), last.Continue)
		}
	}
	o := store.ListOptions{Limit: 1, Match: store.Match{Namespace: "ns", Name: "b", Select: func(resource.Object) bool { return true }}}
	if page := list(t, s, o); len(page.Items) != 1 || page.Continue != "" {
		t.Errorf("by name: got %d items and token %q, want 1 and the end", len(page.Items), page.Continue)
	}
}

func mustGet(t testing.TB, s *store.Store, obj resource.Object) *store.Item {
	item, err := s.Get(t.Context(), configMaps, obj.GetNamespace(), obj.GetName())
	if err != nil {
		t.Fatalf("get %s: %v", obj.GetName(), err)
	}
	return item
}

func TestMatch(t *testing.T) {
	s := open(t)
	for _, key := range [][2]string{{"a", "x"}, {"a", "y"}, {"a-b", "x"}, {"b", "x"}} {
		create(t, s, key[0], key[1], "1")
	}
	for _, c := range []struct {
		name  string
		match store.Match
		want  string
	}{
		// In the order of "namespace/name", as the real server's storage has it.
		{"all", store.Match{}, "a-b/x=1 a/x=1 a/y=1 b/x=1"},
		{"namespace", store.Match{Namespace: "a"}, "a/x=1 a/y=1"},
		{"name", store.Match{Name: "x"}, "a-b/x=1 a/x=1 b/x=1"},
		{"both", store.Match{Namespace: "b", Name: "x"}, "b/x=1"},
		{"neither is there", store.Match{Namespace: "c", Name: "x"}, ""},
		{"selector", store.Match{Select: func(o resource.Object) bool { return o.GetNamespace() > "a" && o.GetName() == "x" }}, "a-b/x=1 b/x=1"},
	} {
		items, revision, err := s.Snapshot(t.Context(), configMaps, c.match, -1)
		if got := names(items); got != c.want || err != nil || revision != 4 {
			t.Errorf("%s: got %q at %d, %v; want %q at 4", c.name, got, revision, err, c.want)
		}
	}
}

func TestFuture(t *testing.T) { synctest.Test(t, testFuture) }

func testFuture(t *testing.T) {
	s := open(t)
	r := create(t, s, "a", "x", "1").Revision()
	// A revision that comes soon enough is waited for.
	go func() {
		time.Sleep(20 * time.Millisecond)
		_, _ = s.Create(context.Background(), configMaps, configMap("a", "y", "1"), false)
	}()
	if page := list(t, s, store.ListOptions{ResourceVersion: version(r + 1)}); page.Revision != r+1 {
		t.Errorf("list is at %d, want %d", page.Revision, r+1)
	}
	_, err := s.List(t.Context(), configMaps, store.ListOptions{ResourceVersion: version(r + 100)})
	var future *store.FutureError
	if !errors.As(err, &future) || !errors.Is(err, store.ErrFuture) || future.Asked != r+100 || future.Current != r+1 {
		t.Errorf("list of the future: got %v, want a FutureError of %d at %d", err, r+100, r+1)
	}
}

// What is older than the history has expired, and a token then goes on at the
// newest revision.
func TestExpiry(t *testing.T) { synctest.Test(t, testExpiry) }

func testExpiry(t *testing.T) {
	s := open(t)
	for _, name := range []string{"x", "y", "z"} {
		create(t, s, "a", name, "1")
	}
	first := list(t, s, store.ListOptions{Limit: 1})
	var expired *store.ExpiredError
	for start := time.Now(); expired == nil; time.Sleep(20 * time.Second) {
		if age := time.Since(start); age > 6*time.Minute+30*time.Second {
			t.Fatalf("the token is good after %v", age)
		}
		_, err := s.List(t.Context(), configMaps, store.ListOptions{Limit: 1, Continue: first.Continue})
		if err != nil && (!errors.As(err, &expired) || time.Since(start) < 5*time.Minute) {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
	}
	second := list(t, s, store.ListOptions{Limit: 1, Continue: expired.Continue})
	if got := names(second.Items); got != "a/y=1" || second.Revision <= first.Revision {
		t.Errorf("after expiry: %q at %d, want a/y=1 at more than %d", got, second.Revision, first.Revision)
	}
	third := list(t, s, store.ListOptions{Limit: 1, Continue: second.Continue})
	if got := names(third.Items); got != "a/z=1" || third.Revision != second.Revision {
		t.Errorf("the next page: %q at %d, want a/z=1 at %d", got, third.Revision, second.Revision)
	}
	_, err := s.List(t.Context(), configMaps, store.ListOptions{ResourceVersion: version(first.Revision), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !errors.As(err, &expired) || expired.Continue != "" {
		t.Errorf("exact list of an expired revision: got %v, want an ExpiredError without a token", err)
	}
	for _, err := range s.Watch(t.Context(), configMaps, store.Match{}, first.Revision) {
		if !errors.Is(err, store.ErrExpired) {
			t.Errorf("watch of an expired revision: got %v, want ErrExpired", err)
		}
		break
	}
}
