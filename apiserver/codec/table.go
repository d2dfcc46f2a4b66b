package codec

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// TableOptions say what a table is to contain.
type TableOptions struct {
	NoHeaders bool
	Include   metav1.IncludeObjectPolicy // Metadata if empty
}

// ParseTableOptions reads the query of r if out is a table.
func ParseTableOptions(r *http.Request, out Output) (TableOptions, error) {
	var o TableOptions
	if out.As.Kind != "Table" {
		return o, nil
	}
	query := r.URL.Query()
	o.Include = metav1.IncludeObjectPolicy(query.Get("includeObject"))
	if v := query.Get("noHeaders"); v != "" {
		o.NoHeaders, _ = strconv.ParseBool(v)
	}
	switch o.Include {
	case metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject, "":
		return o, nil
	}
	return o, apierrors.NewBadRequest(fmt.Sprintf(
		"Unable to convert to Table as requested: includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty", o.Include))
}

// newTable is the table of objects of the stored version, made anew; rows has one made of what is kept.
func newTable(r *resource.Resource, objects []resource.Object, listMeta metav1.ListMeta, version schema.GroupVersion, o TableOptions) (*metav1.Table, error) {
	t := &metav1.Table{ListMeta: listMeta, Rows: make([]metav1.TableRow, 0, len(objects))}
	t.SetGroupVersionKind(version.WithKind("Table"))
	columns := columnsOf(r)
	if !o.NoHeaders {
		for _, c := range columns {
			t.ColumnDefinitions = append(t.ColumnDefinitions, metav1.TableColumnDefinition{
				Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority})
		}
	}
	objects, err := fromStored(r, objects)
	if err != nil {
		return nil, err
	}
	for _, obj := range objects {
		row := metav1.TableRow{Cells: make([]any, 0, len(columns))}
		for _, c := range columns {
			row.Cells = append(row.Cells, c.Value(obj))
		}
		row.Object.Object = tableObject(obj, r, version, o.Include)
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

func columnsOf(r *resource.Resource) []resource.Column[resource.Object] {
	if r.Columns == nil {
		return defaultColumns
	}
	return r.Columns
}

// fromStored are objects as r has them.
func fromStored(r *resource.Resource, objects []resource.Object) ([]resource.Object, error) {
	if r.Converts() {
		return r.Custom.FromStored(objects)
	}
	out := make([]resource.Object, 0, len(objects))
	for _, stored := range objects {
		obj, err := r.FromStored(stored)
		if err != nil {
			return nil, err
		}
		out = append(out, obj)
	}
	return out, nil
}

func tableObject(obj resource.Object, r *resource.Resource, version schema.GroupVersion, include metav1.IncludeObjectPolicy) runtime.Object {
	switch include {
	case metav1.IncludeNone:
		return nil
	case metav1.IncludeObject:
		return As(obj, r.GVK())
	}
	partial := meta.AsPartialObjectMetadata(obj)
	partial.SetGroupVersionKind(version.WithKind("PartialObjectMetadata"))
	return partial
}

// defaultColumns serve kinds that name none.
var defaultColumns = []resource.Column[resource.Object]{
	resource.NameColumn[resource.Object](),
	{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Value: func(obj resource.Object) any {
			return obj.GetCreationTimestamp().UTC().Format(time.RFC3339)
		}},
}
