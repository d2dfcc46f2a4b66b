package podspec_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TestTables compares the tables of workloads, as "kubectl get -o wide" shows
// them, with those of Kubernetes. Cases are written as for TestAnswers, with a
// status for each object that has one.
func TestTables(t *testing.T) {
	const name = "testdata/tables/tables.txtar"
	archive, err := txtar.ParseFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	var out []txtar.File
	for _, c := range casesOf(archive) {
		t.Run(c.name, func(t *testing.T) {
			object := merged(t, []byte(smallest[kindOf(t, c.object)]), c.object)
			var got string
			if *served {
				got = theirTable(t, object, c)
			} else {
				got = ourTable(t, object, c)
			}
			if *update {
				c.want = theirTable(t, object, c)
			}
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
		out = append(out, c.files()...)
	}
	if *update {
		archive.Files = out
		if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func ourTable(t *testing.T, object []byte, c *testCase) string {
	t.Helper()
	r := rows()[kindOf(t, object)]
	obj := decode(t, r, object)
	r.Prepare(obj, nil)
	if c.via != "" {
		stored, err := json.Marshal(obj)
		if err != nil {
			t.Fatal(err)
		}
		obj = decode(t, r, merged(t, stored, c.change))
	}
	obj.SetCreationTimestamp(metav1.Now())
	if len(obj.GetFinalizers()) > 0 {
		now := metav1.Now()
		obj.SetDeletionTimestamp(&now)
	}
	var b strings.Builder
	for _, column := range r.Columns {
		writeCell(&b, column, column.Value(obj))
	}
	return b.String()
}

var (
	age       = regexp.MustCompile(`^\d+s$`)
	years     = regexp.MustCompile(`\d+y\d+d`)
	uidInCell = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)
)

func writeCell(b *strings.Builder, c resource.Column[resource.Object], value any) {
	text, err := json.Marshal(value)
	if err != nil {
		text = []byte(err.Error())
	}
	cell := years.ReplaceAllString(uidInCell.ReplaceAllString(string(text), "UID"), "YEARS")
	var shown string // an age is a string when it is shown
	if json.Unmarshal(text, &shown) == nil && age.MatchString(shown) {
		cell = "AGE"
	}
	fmt.Fprintf(b, "%s|%s|%s|%d|%s: %s\n", c.Name, c.Type, c.Format, c.Priority, c.Description, cell)
}

// theirTable makes the object on the API server, deletes it if it has a
// finalizer that keeps it there, and asks for its table.
func theirTable(t *testing.T, object []byte, c *testCase) string {
	t.Helper()
	r := rows()[kindOf(t, object)]
	client, _ := clientFor(t, r)
	stored, err := answered(client.Post().Namespace("default").Resource(r.Plural).Body(object).Do(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	grace, background := int64(0), metav1.DeletePropagationBackground
	remove := func() {
		err := client.Delete().Namespace("default").Resource(r.Plural).Name("x").
			Body(&metav1.DeleteOptions{GracePeriodSeconds: &grace, PropagationPolicy: &background}).Do(t.Context()).Error()
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
	held := strings.Contains(string(object), "finalizers")
	defer func() {
		if !held {
			remove()
			return
		}
		err := client.Patch("application/merge-patch+json").Namespace("default").Resource(r.Plural).Name("x").
			Body([]byte(`{"metadata":{"finalizers":null}}`)).Do(t.Context()).Error()
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	}()
	if c.via != "" {
		put := client.Put().Namespace("default").Resource(r.Plural).Name("x").SubResource(c.via)
		if _, err := answered(put.Body(merged(t, stored, c.change)).Do(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if held {
		remove()
	}
	text, err := answered(client.Get().Namespace("default").Resource(r.Plural).Name("x").
		SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").Do(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(text, &table); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i, d := range table.ColumnDefinitions {
		writeCell(&b, resource.Column[resource.Object]{Name: d.Name, Type: d.Type, Format: d.Format, Priority: d.Priority, Description: d.Description}, table.Rows[0].Cells[i])
	}
	return b.String()
}
