package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
	"github.com/skiff-k8s/skiff/apiserver/maintain"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// skiff runs the program in this process and returns what it says.
func skiff(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func must(t *testing.T, out string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// serve runs f with a server on a storage and ends the server.
func serve(t *testing.T, storage string, f func(t *testing.T, s *apiserver.Server, clients kubernetes.Interface)) {
	t.Helper()
	t.Run("on "+filepath.Base(storage), func(t *testing.T) {
		s := apiservertest.Start(t, func(o *apiserver.Options) {
			o.Backend.Close()
			var err error
			if o.Backend, err = engines.Open(storage); err != nil {
				t.Fatal(err)
			}
		})
		f(t, s, kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin")))
	})
	if t.Failed() {
		t.FailNow()
	}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
}

// described are all ConfigMaps as "name=value@version (uid)".
func described(t *testing.T, clients kubernetes.Interface) string {
	t.Helper()
	list, err := clients.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, c := range list.Items {
		all = append(all, fmt.Sprintf("%s=%s@%s (%s)", c.Name, c.Data["value"], c.ResourceVersion, c.UID))
	}
	return strings.Join(all, "\n")
}

// A cluster that is moved to another storage goes on where it was: its clients'
// watches are resumed, those too that had not seen everything.
func TestMove(t *testing.T) {
	dir := t.TempDir()
	from, to := "file://"+dir+"/from", "file://"+dir+"/to"
	var before, seen string
	serve(t, from, func(t *testing.T, _ *apiserver.Server, clients kubernetes.Interface) {
		maps := clients.CoreV1().ConfigMaps("default")
		for i := range 20 {
			c, err := maps.Create(t.Context(), configMap(fmt.Sprint("c", i), "1"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if i == 10 {
				seen = c.ResourceVersion
			}
		}
		if err := maps.Delete(t.Context(), "c3", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		before = described(t, clients)
	})
	out, err := skiff(t, "storage", "copy", from, to)
	must(t, out, err)
	if !strings.HasPrefix(out, "copied ") || strings.Contains(out, "\x1b") {
		t.Errorf("skiff says %q", out)
	}
	serve(t, to, func(t *testing.T, _ *apiserver.Server, clients kubernetes.Interface) {
		if after := described(t, clients); after != before {
			t.Errorf("after the copy, there are\n%s\nwant\n%s", after, before)
		}
		w, err := clients.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: seen})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		if _, err := clients.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("new", "1"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		var events []string
		for event := range w.ResultChan() {
			c, ok := event.Object.(*corev1.ConfigMap)
			if !ok {
				t.Fatalf("the watch yields %v", event)
			}
			if events = append(events, string(event.Type)+" "+c.Name); c.Name == "new" {
				break
			}
		}
		want := "ADDED c11 ADDED c12 ADDED c13 ADDED c14 ADDED c15 ADDED c16 ADDED c17 ADDED c18 ADDED c19 DELETED c3 ADDED new"
		if got := strings.Join(events, " "); got != want {
			t.Errorf("the watch went on with\n%s\nwant\n%s", got, want)
		}
	})
	if out, err := skiff(t, "storage", "copy", from, to); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a second copy: %v, %q", err, out)
	}
	if out, err := skiff(t, "storage", "copy", "file://"+dir+"/typo", to); !errors.Is(err, engines.ErrMissing) {
		t.Errorf("a copy of nothing: %v, %q", err, out)
	}
}

// A backup is taken from a server while clients write, and what is restored
// is a state that was: writers that write one after the other are found so.
func TestBackupOfServer(t *testing.T) {
	dir := t.TempDir()
	file, storage := filepath.Join(dir, "backup"), "file://"+dir+"/restored"
	var later string // a version from after the backup
	server := apiservertest.Start(t, nil)
	config := apiservertest.Config(server, "admin")
	clients := kubernetes.NewForConfigOrDie(config)
	stop := writers(t, clients)
	made, err := backUp(file, os.Stdout, newMeter(nil, ""), func(w io.Writer) error { return fetch(t.Context(), config, maintain.PathBackup, w) })
	written := stop()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c, err := clients.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "later-"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		later = c.ResourceVersion
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup is %v, %v", info.Mode(), err)
	}

	out, err := skiff(t, "restore", file, "--storage", storage)
	must(t, out, err)
	newest := made.revision + 1_000_000_000
	if !strings.Contains(out, fmt.Sprintf("restored %d entries", made.entries)) || !strings.Contains(out, fmt.Sprint(newest)) {
		t.Errorf("skiff says %q after a backup of %+v", out, made)
	}
	serve(t, storage, func(t *testing.T, _ *apiserver.Server, clients kubernetes.Interface) {
		list, err := clients.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "writer"})
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, c := range list.Items {
			got[c.Name] = c.ResourceVersion
		}
		for name, want := range written.at(made.revision) {
			if got[name] != want {
				t.Errorf("%s is at %q, want %q, its last write up to %d", name, got[name], want, made.revision)
			}
		}
		if version, _ := strconv.ParseInt(list.ResourceVersion, 10, 64); version < newest {
			t.Errorf("the list is at %s, want %d at least", list.ResourceVersion, newest)
		}
		for _, old := range []string{fmt.Sprint(made.revision), later} {
			w, err := clients.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: old})
			if err == nil {
				event := <-w.ResultChan()
				w.Stop()
				if event.Type == watch.Error {
					err = apierrors.FromObject(event.Object)
				}
			}
			if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
				t.Errorf("a watch from %s of before the restore: %v, want 410", old, err)
			}
		}
	})
	if out, err := skiff(t, "restore", file, "--storage", storage); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a second restore: %v, %q", err, out)
	}
}

// writes are the revisions at which ConfigMaps were written.
type writes map[string][]int64

// at is the version each had at a revision.
func (w writes) at(revision int64) map[string]string {
	versions := make(map[string]string)
	for name, revisions := range w {
		for _, r := range revisions {
			if r <= revision {
				versions[name] = fmt.Sprint(r)
			}
		}
	}
	return versions
}

// writers write until they are told to stop, each a ConfigMap of its own, and
// have all written when writers returns.
func writers(t *testing.T, clients kubernetes.Interface) (stop func() writes) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	all := make(writes)
	var running, begun sync.WaitGroup
	for w := range 4 {
		begun.Add(1)
		running.Go(func() {
			maps := clients.CoreV1().ConfigMaps("default")
			c := configMap(fmt.Sprint("writer", w), "0")
			c.Labels = map[string]string{"writer": "yes"}
			c, err := maps.Create(context.Background(), c, metav1.CreateOptions{})
			for n := 1; err == nil; n++ {
				revision, _ := strconv.ParseInt(c.ResourceVersion, 10, 64)
				mu.Lock()
				all[c.Name] = append(all[c.Name], revision)
				mu.Unlock()
				if n == 1 {
					begun.Done()
				}
				if ctx.Err() != nil {
					return
				}
				c.Data["value"] = fmt.Sprint(n)
				c, err = maps.Update(context.Background(), c, metav1.UpdateOptions{})
			}
			t.Errorf("writer %d: %v", w, err)
		})
	}
	begun.Wait()
	return func() writes {
		cancel()
		running.Wait()
		return all
	}
}

// Not everybody may have a backup, and a refusal leaves an older one as it was.
func TestBackupIsRefused(t *testing.T) {
	server := apiservertest.Start(t, nil)
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, []byte("an older one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, groups := range map[string][]string{"jane": {"developers"}, "system:node:a": {"system:nodes"}} {
		_, err := backUp(file, os.Stdout, newMeter(nil, ""), func(w io.Writer) error {
			return fetch(t.Context(), apiservertest.Config(server, name, groups...), maintain.PathBackup, w)
		})
		if err == nil || !strings.Contains(err.Error(), `cannot get path "/skiff/backup"`) {
			t.Errorf("a backup for %s: %v", name, err)
		}
	}
	if left, err := os.ReadFile(file); string(left) != "an older one" {
		t.Errorf("the older backup is %q, %v", left, err)
	}
}

// A storage is backed up without a server too; a damaged backup is not restored,
// and makes no storage.
func TestBackupOfStorage(t *testing.T) {
	dir := t.TempDir()
	storage, file := "file://"+dir+"/from", filepath.Join(dir, "backup")
	serve(t, storage, func(*testing.T, *apiserver.Server, kubernetes.Interface) {})
	out, err := skiff(t, "backup", file, "--storage", storage)
	must(t, out, err)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data[:len(data)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := skiff(t, "restore", file, "--storage", "file://"+dir+"/to"); !errors.Is(err, snapshot.ErrTruncated) {
		t.Errorf("restore of a truncated backup: %v, %q", err, out)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = skiff(t, "restore", file, "--storage", "file://"+dir+"/to", "--bump-revision", "5")
	must(t, out, err)
}

// What servers write is sound, by what they say themselves and by what is in
// their storage. What is not, is said, and fails.
func TestCheck(t *testing.T) {
	storage := "file://" + t.TempDir() + "/checked"
	serve(t, storage, func(t *testing.T, s *apiserver.Server, clients kubernetes.Interface) {
		definition := []byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},"spec":{"group":"example.com",
			"scope":"Namespaced","names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`)
		rest := clients.CoreV1().RESTClient()
		if err := rest.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").Body(definition).Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
		thing := []byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"a"}}`)
		for {
			err := rest.Post().AbsPath("/apis/example.com/v1/namespaces/default/things").Body(thing).Do(t.Context()).Error()
			if err == nil {
				break
			}
			if !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		}
		if _, err := clients.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		var answer bytes.Buffer
		if err := fetch(t.Context(), apiservertest.Config(s, "admin"), maintain.PathCheck, &answer); err != nil {
			t.Fatal(err)
		}
		var report store.Report
		if err := json.Unmarshal(answer.Bytes(), &report); err != nil {
			t.Fatal(err)
		}
		if report.Found > 0 || report.Compared < 100 || report.Compared > report.Entries || len(report.Unserved) > 0 {
			t.Errorf("the server reports %+v", report)
		}
		if err := fetch(t.Context(), apiservertest.Config(s, "jane", "developers"), maintain.PathCheck, &answer); err == nil || !strings.Contains(err.Error(), "cannot get path") {
			t.Errorf("a check for somebody: %v", err)
		}
		if out, err := skiff(t, "storage", "check", storage); err == nil || !strings.Contains(err.Error(), "leave out the URL") {
			t.Errorf("a check of a file in use: %v, %q", err, out)
		}
	})
	out, err := skiff(t, "storage", "check", storage)
	must(t, out, err)
	if !strings.HasSuffix(out, "no problems\n") || strings.Contains(out, "note") {
		t.Errorf("skiff says %q", out)
	}
	b, err := engines.Open(storage)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"/registry/pods/default/broken": "k8s\x00?", "/registry/podsecuritypolicies/old": "k8s\x00"} {
		if _, err := b.Put(t.Context(), key, []byte(value), backend.Absent, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	out, err = skiff(t, "storage", "check", storage)
	if !errors.Is(err, errUnsound) || !strings.Contains(out, "problem: /registry/pods/default/broken: decode stored Pod") || !strings.Contains(out, "note: 1 entries of podsecuritypolicies") {
		t.Errorf("check of a broken object: %v, %q", err, out)
	}
}

// A check finds nothing wrong with what is being written, and forgotten, while it looks: asked of the server, and of the
// database where others may read that.
func TestCheckWhileWriting(t *testing.T) {
	for name, c := range map[string]struct {
		storage func(t *testing.T) string
		shared  bool
	}{
		"file":     {func(t *testing.T) string { return "file://" + t.TempDir() + "/checked" }, false},
		"sqlite":   {func(t *testing.T) string { return "sqlite://" + t.TempDir() + "/checked" }, false},
		"postgres": {func(t *testing.T) string { return databases.Postgres(t) }, true},
		"mariadb":  {func(t *testing.T) string { return databases.MariaDB(t) }, true},
		"etcd":     {func(t *testing.T) string { return databases.Etcd(t) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			storage := c.storage(t)
			b, err := engines.Open(storage)
			if err != nil {
				t.Fatal(err)
			}
			s := apiservertest.Start(t, func(o *apiserver.Options) {
				o.Backend.Close()
				o.Backend = b
			})
			clients := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin"))
			written := writers(t, clients)
			comings := comeAndGo(t, clients)
			defer func() { written(); comings() }() // before the server ends, whatever happens
			compacted := int64(0)
			for range 20 {
				var answer bytes.Buffer
				if err := fetch(t.Context(), apiservertest.Config(s, "admin"), maintain.PathCheck, &answer); err != nil {
					t.Fatal(err)
				}
				var report store.Report
				if err := json.Unmarshal(answer.Bytes(), &report); err != nil {
					t.Fatal(err)
				}
				if report.Found > 0 || report.Compared < 100 || report.Revision < compacted { // the same, if all wait for the disk meanwhile
					t.Errorf("the server reports %+v", report)
				}
				if c.shared {
					if out, err := skiff(t, "storage", "check", storage); err != nil {
						t.Errorf("a check of the database: %v\n%s", err, out)
					}
				}
				if err := b.Compact(t.Context(), report.Revision); err != nil {
					t.Fatal(err)
				}
				compacted = report.Revision
			}
			n := 0
			for _, revisions := range written() {
				n += len(revisions)
			}
			if n += comings(); n < 100 {
				t.Errorf("%d writes were done meanwhile", n)
			}
		})
	}
}

// comeAndGo creates and deletes objects until it is told to stop, and says how often.
func comeAndGo(t *testing.T, clients kubernetes.Interface) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var times atomic.Int64
	for w := range 2 {
		running.Go(func() {
			maps := clients.CoreV1().ConfigMaps("default")
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("guest-%d-%d", w, n)
				_, err := maps.Create(context.Background(), configMap(name, "0"), metav1.CreateOptions{})
				if err == nil {
					err = maps.Delete(context.Background(), name, metav1.DeleteOptions{})
				}
				if err != nil {
					t.Error(err)
					return
				}
				times.Add(2)
			}
		})
	}
	return func() int {
		cancel()
		running.Wait()
		return int(times.Load())
	}
}
