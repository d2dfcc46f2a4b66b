package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Report is what a check has found.
type Report struct {
	Revision int64 `json:"revision"` // at which the backend was read
	Entries  int   `json:"entries"`
	// Compared is how many objects of the cache were compared with the backend.
	Compared int `json:"compared"`
	// Problems are the first of those Found.
	Problems []string `json:"problems"`
	Found    int      `json:"found"`
	// Unserved are entries that belong to no kind, by group and plural. They do
	// no harm: the definition of a custom resource is gone, or others use the
	// database too.
	Unserved map[string]int `json:"unserved"`
	// Encrypted are objects that were not looked into, as it is not known how
	// objects are encrypted.
	Encrypted int `json:"encrypted"`
}

// mostProblems is how many problems a report names.
const mostProblems = 100

func (r *Report) problem(format string, args ...any) {
	if r.Found++; len(r.Problems) < mostProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Check reads all of a backend at one revision, while others may write, and
// reports whether revisions are consistent and every object can be decoded, is where
// its name says, and is there once. Kinds that are not among the resources are taken
// for custom ones. tell is told how far it has come.
func Check(ctx context.Context, c Config, tell snapshot.Progress) (Report, error) {
	if c.Encryption == nil {
		c.Encryption = Unencrypted{}
	}
	return newChecker(c).run(ctx, c.Backend, tell)
}

func newChecker(config Config) *checker {
	c := &checker{
		Report: Report{Problems: []string{}, Unserved: make(map[string]int)}, kinds: make(map[string]*kind),
		revisions: make(map[int64]string), uids: make(map[string]string), defined: make(map[string]bool), custom: make(map[string]int),
	}
	for _, r := range config.Resources {
		k := newKind(newShape(r.Stored, nil, nil), config.Encryption, 0)
		c.kinds[k.prefix] = k
	}
	return c
}

func (c *checker) run(ctx context.Context, b backend.Backend, tell snapshot.Progress) (Report, error) {
	for page, err := range snapshot.Pages(ctx, b, 0) {
		if err != nil {
			return c.Report, err
		}
		c.Revision = page.Revision
		for _, e := range page.Entries {
			c.entry(ctx, e)
		}
		tell(c.Entries, c.Entries+int(page.More))
	}
	for name, n := range c.custom {
		if !c.defined[name] {
			c.Unserved[name] += n
		}
	}
	return c.Report, nil
}

// checker looks at one entry after the other, by key.
type checker struct {
	Report
	kinds     map[string]*kind // by prefix
	last      string           // key
	revisions map[int64]string // keys by revision
	uids      map[string]string
	defined   map[string]bool // custom resources, as "plural.group"
	custom    map[string]int  // objects by custom resource
}

// ofServers are what keys begin with below which servers, kube-apiservers among
// them, keep what is no object: who is alive, and which node ports are taken.
var ofServers = []string{resource.Registry + "masterleases/", resource.Registry + "peerserverleases/", resource.Registry + "ranges/"}

// entry looks at what all entries have in common.
func (c *checker) entry(ctx context.Context, e backend.Entry) {
	if c.Entries > 0 && e.Key <= c.last {
		c.problem("%s: is listed after %s", e.Key, c.last)
	}
	c.last = e.Key
	c.Entries++
	if e.Revision <= 0 || e.Revision > c.Revision {
		c.problem("%s: is at revision %d, the newest is %d", e.Key, e.Revision, c.Revision)
	}
	if other, ok := c.revisions[e.Revision]; ok {
		c.problem("%s: has the revision %d of %s", e.Key, e.Revision, other)
	}
	c.revisions[e.Revision] = e.Key
	switch {
	case e.Key == historyKey:
		c.history(e)
	case slices.ContainsFunc(ofServers, func(prefix string) bool { return strings.HasPrefix(e.Key, prefix) }):
	case strings.HasPrefix(e.Key, resource.Registry):
		c.stored(ctx, e)
	}
}

func (c *checker) history(e backend.Entry) {
	var h history
	if err := json.Unmarshal(e.Value, &h); err != nil {
		c.problem("%s: %v", e.Key, err)
		return
	}
	if h.Compacted > c.Revision {
		c.problem("%s: says that %d has been compacted, the newest revision is %d", e.Key, h.Compacted, c.Revision)
	}
}

// stored looks at what is below /registry/.
func (c *checker) stored(ctx context.Context, e backend.Entry) {
	k := kindAmong(c.kinds, e.Key)
	if k == nil {
		c.unknown(e)
		return
	}
	value, _, err := k.decrypt(ctx, e.Key, e.Value)
	if errors.Is(err, errEncrypted) {
		c.Encrypted++
		return
	}
	var obj resource.Object
	if err == nil {
		obj, err = decode(k.r, value)
	}
	if err != nil {
		c.problem("%s: %v", e.Key, err)
		return
	}
	c.object(e.Key, k.r.Key(obj.GetNamespace(), obj.GetName()), obj)
	if k.r.Group == "apiextensions.k8s.io" && k.r.Plural == "customresourcedefinitions" {
		c.defined[obj.GetName()] = true
	}
}

// object looks at what all objects have in common. want is the key by their
// names.
func (c *checker) object(key, want string, obj resource.Object) {
	if key != want {
		c.problem("%s: is named as what belongs at %s", key, want)
	}
	if v := obj.GetResourceVersion(); v != "" {
		c.problem("%s: has the resourceVersion %q among its fields", key, v)
	}
	uid := string(obj.GetUID())
	if uid == "" {
		c.problem("%s: has no uid", key)
		return
	}
	if other, ok := c.uids[uid]; ok {
		c.problem("%s: has the uid of %s", key, other)
	}
	c.uids[uid] = key
}

// unknown looks at what belongs to no kind that was given. JSON with a kind in it
// is a custom resource: /registry/group/plural/namespace/name.
func (c *checker) unknown(e backend.Entry) {
	parts := strings.Split(strings.TrimPrefix(e.Key, resource.Registry), "/")
	var u unstructured.Unstructured
	if len(parts) < 3 || len(parts) > 4 || !bytes.HasPrefix(e.Value, []byte("{")) {
		c.Unserved[strings.Join(parts[:max(1, len(parts)-1)], "/")]++
		return
	}
	if err := utiljson.Unmarshal(e.Value, &u.Object); err != nil {
		c.problem("%s: %v", e.Key, err)
		return
	}
	if u.Object["kind"] == nil || u.Object["metadata"] == nil {
		c.problem("%s: is no object of the API", e.Key)
		return
	}
	want := resource.Registry + u.GroupVersionKind().Group + "/" + parts[1] + "/"
	if ns := u.GetNamespace(); ns != "" {
		want += ns + "/"
	}
	c.object(e.Key, want+u.GetName(), &u)
	c.custom[parts[1]+"."+parts[0]]++
}

// Check is the function Check of the store's backend and kinds, and compares the
// cache with the backend besides, each kind at the revision it has.
func (s *Store) Check(ctx context.Context) (Report, error) {
	kinds := s.all()
	rows := make([]*resource.Resource, len(kinds))
	for i, k := range kinds {
		rows[i] = k.r
	}
	report, err := Check(ctx, Config{Backend: s.backend, Resources: rows, Encryption: s.encryption}, func(int, int) {})
	if err != nil {
		return report, err
	}
	newest, err := s.backend.Revision(ctx)
	if err != nil {
		return report, err
	}
	if err := s.progress.wait(ctx, newest); err != nil {
		return report, err
	}
	for _, k := range kinds {
		if err := s.compare(ctx, k, &report); err != nil {
			return report, err
		}
	}
	return report, nil
}

// compare finds what is otherwise in the cache of a kind than in the backend.
func (s *Store) compare(ctx context.Context, k *kind, report *Report) error {
	cached := k.now(s.progress.reached.Load())
	page, err := s.backend.List(ctx, k.prefix, "", 0, cached.revision)
	if err != nil {
		return fmt.Errorf("read %s: %w", k.prefix, err)
	}
	seen := 0
	for _, e := range page.Entries {
		fresh := k.decode(ctx, e.Key, e.Value, e.Revision)
		item, ok := cached.items.get(fresh.key)
		if !ok {
			report.problem("%s: is stored at revision %d, and not in the cache at %d", e.Key, e.Revision, cached.revision)
			continue
		}
		seen++
		if item.revision != fresh.revision || item.size != fresh.size || (item.broken == nil) != (fresh.broken == nil) ||
			item.broken == nil && !same(item, fresh.kept.value()) {
			report.problem("%s: is stored at revision %d with %d bytes, the cache at %d has another of revision %d with %d bytes",
				e.Key, e.Revision, len(e.Value), cached.revision, item.revision, item.size)
		}
	}
	report.Compared += seen
	if more := cached.items.len() - seen; more > 0 {
		report.problem("%s: the cache at revision %d has %d objects that are not stored", k.prefix, cached.revision, more)
	}
	return nil
}
