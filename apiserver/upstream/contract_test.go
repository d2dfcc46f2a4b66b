package upstream

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
)

// fresh makes an empty storage of each engine.
var fresh = []struct {
	name string
	url  func(t testing.TB) string
}{
	{"memory", func(testing.TB) string { return "memory://" }},
	{"file", func(t testing.TB) string { return "file://" + t.TempDir() + "/" }},
	{"sqlite", func(t testing.TB) string { return "sqlite://" + t.TempDir() + "/" }},
	{"postgres", databases.Postgres},
	{"mysql", databases.MariaDB},
	{"etcd", databases.Etcd},
}

// plain is a function of the contract that wants nothing but a storage.
type plain = func(context.Context, *testing.T, storage.Interface)

// called are the functions of the contract that are called as they are.
var called = []plain{
	storagetesting.RunTestCreateWithTTL,
	storagetesting.RunTestCreateWithKeyExist,
	storagetesting.RunTestGet,
	storagetesting.RunTestUnconditionalDelete,
	storagetesting.RunTestConditionalDelete,
	storagetesting.RunTestDeleteWithSuggestion,
	storagetesting.RunTestDeleteWithSuggestionAndConflict,
	storagetesting.RunTestDeleteWithConflict,
	storagetesting.RunTestDeleteWithSuggestionOfDeletedObject,
	storagetesting.RunTestValidateDeletionWithSuggestion,
	storagetesting.RunTestValidateDeletionWithOnlySuggestionValid,
	storagetesting.RunTestPreconditionalDeleteWithSuggestion,
	storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass,
	storagetesting.RunTestGetListRecursivePrefix,
	storagetesting.RunTestListPaging,
	storagetesting.RunTestNamespaceScopedList,
	storagetesting.RunTestGuaranteedUpdateWithTTL,
	storagetesting.RunTestGuaranteedUpdateWithConflict,
	storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict,
	storagetesting.RunTestWatch,
	storagetesting.RunTestDeleteTriggerWatch,
	storagetesting.RunTestWatchFromNonZero,
	storagetesting.RunTestDelayedWatchDelivery,
	storagetesting.RunTestWatchContextCancel,
	storagetesting.RunTestWatcherTimeout,
	storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV,
	storagetesting.RunTestNamespaceScopedWatch,
	storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion,
	storagetesting.RunSendInitialEventsBackwardCompatibility,
	storagetesting.RunWatchSemantics,
	storagetesting.RunWatchSemanticInitialEventsExtended,
	storagetesting.RunWatchListMatchSingle,
}

// prepared are the functions of the contract that want more: the adapter
// itself, other pods, or something to do it with.
var prepared = []struct {
	function      any
	form          form
	clusterScoped bool
	call          func(context.Context, *testing.T, *adapter)
}{
	{function: storagetesting.RunTestCreate, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestCreate(ctx, t, a, a.validate)
	}},
	{function: storagetesting.RunTestList, call: func(ctx context.Context, t *testing.T, a *adapter) {
		// Its lists are told that there is a cache, whose requests it would count. It
		// expects a compaction to take one revision, as the note of it does.
		storagetesting.RunTestList(ctx, t, a, a.expire, true, storagetesting.NewKubernetesRecorder(nil))
	}},
	{function: storagetesting.RunTestConsistentList, call: func(ctx context.Context, t *testing.T, a *adapter) {
		// It is told that there is no cache, because readers here see revisions of
		// other kinds too: a read at 0 is as new as the last consistent one at least.
		storagetesting.RunTestConsistentList(ctx, t, a, a.increase, false, true, false)
	}},
	{function: storagetesting.RunTestGetListNonRecursive, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestGetListNonRecursive(ctx, t, a.increase, a)
	}},
	{function: storagetesting.RunTestListContinuation, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestListContinuation(ctx, t, a, nil)
	}},
	{function: storagetesting.RunTestListPaginationRareObject, clusterScoped: true, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestListPaginationRareObject(ctx, t, a, nil)
	}},
	{function: storagetesting.RunTestListContinuationWithFilter, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestListContinuationWithFilter(ctx, t, a, nil)
	}},
	{function: storagetesting.RunTestListInconsistentContinuation, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestListInconsistentContinuation(ctx, t, pagesAtZero{a}, a.compact)
	}},
	{function: storagetesting.RunTestListResourceVersionMatch, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestListResourceVersionMatch(ctx, t, a)
	}},
	{function: storagetesting.RunTestGuaranteedUpdate, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestGuaranteedUpdate(ctx, t, a, a.validate)
	}},
	{function: storagetesting.RunTestGuaranteedUpdateChecksStoredData, form: json, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, a)
	}},
	{function: storagetesting.RunTestTransformationFailure, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestTransformationFailure(ctx, t, a)
	}},
	{function: storagetesting.RunTestCompactRevision, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestCompactRevision(ctx, t, a, a.increase, a.compact)
	}},
	{function: storagetesting.RunTestWatchFromZero, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestWatchFromZero(ctx, t, a, a.compact)
	}},
	{function: storagetesting.RunTestWatchError, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestWatchError(ctx, t, a)
	}},
	{function: storagetesting.RunTestWatchWithUnsafeDelete, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, a)
	}},
	{function: storagetesting.RunOptionalTestProgressNotify, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunOptionalTestProgressNotify(ctx, t, a, a.increase)
	}},
	{function: storagetesting.RunTestClusterScopedWatch, clusterScoped: true, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestClusterScopedWatch(ctx, t, a)
	}},
	{function: storagetesting.RunTestWatchDispatchBookmarkEvents, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, a, true)
	}},
	{function: storagetesting.RunWatchErrorIsBlockingFurtherEvents, call: func(ctx context.Context, t *testing.T, a *adapter) {
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, a)
	}},
}

// notCalled are the functions of the contract that are about what is not here,
// with the reason. docs/storage.md has them too.
var notCalled = map[string]string{
	"RunTestKeySchema":                 "the store has no keys: it finds objects by kind, namespace and name",
	"RunTestStats":                     "the size of kinds is not estimated: requests are not charged by it",
	"RunTestWatchInitializationSignal": "no signal goes from storage to priority and fairness: a watch gives its place back when it has begun",
	"RunBenchmarkStoreListCreate":      "a benchmark",
	"RunBenchmarkStoreList":            "a benchmark",
	"RunBenchmarkStoreStats":           "a benchmark",
}

// alone are functions that set a feature gate of the process, and one that reads
// what does not live long.
var alone = map[string]bool{"RunTestGet": true, "RunWatchSemantics": true, "RunWatchSemanticInitialEventsExtended": true, "RunWatchListMatchSingle": true}

// pagesAtZero pages through lists at resourceVersion 0, as a server without a
// cache does. With one, kube-apiserver and Skiff take no notice of the limit there.
type pagesAtZero struct{ *adapter }

func (p pagesAtZero) GetList(ctx context.Context, key string, o storage.ListOptions, out kruntime.Object) error {
	if o.ResourceVersion == "0" {
		o.ResourceVersion = ""
	}
	return p.adapter.GetList(ctx, key, o, out)
}

func TestContract(t *testing.T) {
	for _, e := range fresh {
		t.Run(e.name, func(t *testing.T) {
			run := func(function any, f form, clusterScoped bool, call func(context.Context, *testing.T, *adapter)) {
				t.Run(nameOf(function), func(t *testing.T) {
					if !alone[nameOf(function)] {
						t.Parallel()
					}
					b, err := engines.Open(e.url(t))
					if err != nil {
						t.Fatal(err)
					}
					call(t.Context(), t, newAdapter(t, b, f, clusterScoped))
				})
			}
			for _, function := range called {
				run(function, protobuf, false, func(ctx context.Context, t *testing.T, a *adapter) { function(ctx, t, a) })
			}
			for _, p := range prepared {
				run(p.function, p.form, p.clusterScoped, p.call)
			}
		})
	}
}

// nameOf is the name of a function.
func nameOf(function any) string {
	name := runtime.FuncForPC(reflect.ValueOf(function).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}

// Each function of the contract is called, or there is a reason why it is not.
func TestAllOfTheContract(t *testing.T) {
	has := functions(t)
	known := make(map[string]bool)
	for _, function := range called {
		known[nameOf(function)] = true
	}
	for _, p := range prepared {
		known[nameOf(p.function)] = true
	}
	for name, reason := range notCalled {
		if known[name] || reason == "" || !has[name] {
			t.Errorf("%s: listed as not called, called: %v, in the contract: %v, reason: %q", name, known[name], has[name], reason)
		}
		known[name] = true
	}
	for name := range has {
		if !known[name] {
			t.Errorf("%s is neither called nor is there a reason why not", name)
		}
	}
	if len(has) < 50 {
		t.Errorf("the contract has %d functions: not all were found", len(has))
	}
}

// functions are the exported functions of the contract.
func functions(t *testing.T) map[string]bool {
	t.Helper()
	pc := reflect.ValueOf(storagetesting.RunTestCreate).Pointer()
	file, _ := runtime.FuncForPC(pc).FileLine(pc)
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Run") {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}
