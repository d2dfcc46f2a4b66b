package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// The cells of a row are kept with the item, as its other forms are, with a gap for each age: it is filled when the row
// is asked for. A gap is a byte that JSON does not have, and the time the age is of, in seconds and nanoseconds.
const (
	gap     = 0
	gapSize = 1 + 8 + 4
)

// rowsForm is what the cells of an item are kept under.
type rowsForm struct{ resource *resource.Resource }

// rows is the JSON of a table of items, which are of the version of r.
func rows[I Item](o Output, items []I, r *resource.Resource, listMeta metav1.ListMeta, options TableOptions) (Body, error) {
	version := o.As.GroupVersion()
	t, err := newTable(r, nil, listMeta, version, options)
	if err != nil {
		return nil, err
	}
	head, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	head, ok := bytes.CutSuffix(head, []byte("]}"))
	if !ok {
		return nil, fmt.Errorf("a table ends with %q", head[max(0, len(head)-10):]) // its rows are what comes last
	}
	body := make(Body, 0, 3*len(items)+2)
	body = append(body, head)
	made := make([]byte, 0, 256*len(items))
	for n, i := range items {
		cells, err := encodedCells(i, r)
		if err != nil {
			return nil, err
		}
		object, err := rowObject(i, r, version, options.Include)
		if err != nil {
			return nil, err
		}
		start := len(made)
		if n > 0 {
			made = append(made, ',')
		}
		made = append(made, `{"cells":`...)
		made = fillGaps(made, cells)
		made = append(made, `,"object":`...)
		body = append(body, made[start:len(made):len(made)], object, rowEnd)
	}
	return append(body, tableEnd), nil
}

var rowEnd, tableEnd, null = []byte("}"), []byte("]}\n"), []byte("null")

// rowObject is what a row has of its object.
func rowObject(i Item, r *resource.Resource, version schema.GroupVersion, include metav1.IncludeObjectPolicy) ([]byte, error) {
	switch include {
	case metav1.IncludeNone:
		return null, nil
	case metav1.IncludeObject:
		return encodeItem(i, r, JSON, schema.GroupVersionKind{})
	}
	return encodeItem(i, r, JSON, version.WithKind("PartialObjectMetadata"))
}

func encodedCells(i Item, r *resource.Resource) ([]byte, error) {
	return i.Encoded(rowsForm{r}, func(obj resource.Object) ([]byte, error) {
		b := []byte{'['}
		for n, c := range columnsOf(r) {
			if n > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendCell(b, c.Value(obj)); err != nil {
				return nil, fmt.Errorf("encode column %s of %s %s/%s: %w", c.Name, r.Plural, obj.GetNamespace(), obj.GetName(), err)
			}
		}
		return append(b, ']'), nil
	})
}

func appendCell(b []byte, cell any) ([]byte, error) {
	ago, isAge := cell.(resource.Since)
	if !isAge {
		data, err := json.Marshal(cell)
		return append(b, data...), err
	}
	before, err := json.Marshal(ago.Before)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(ago.After)
	if err != nil {
		return nil, err
	}
	b = append(append(b, before[:len(before)-1]...), gap)
	b = binary.BigEndian.AppendUint64(b, uint64(ago.Time.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(ago.Time.Nanosecond()))
	return append(b, after[1:]...), nil
}

// fillGaps appends cells with their ages as of now.
func fillGaps(b, cells []byte) []byte {
	for {
		at := bytes.IndexByte(cells, gap)
		if at < 0 {
			return append(b, cells...)
		}
		since := time.Unix(int64(binary.BigEndian.Uint64(cells[at+1:])), int64(binary.BigEndian.Uint32(cells[at+9:])))
		b = appendInString(append(b, cells[:at]...), resource.HowLong(since))
		cells = cells[at+gapSize:]
	}
}

// appendInString appends a text to a string of JSON that has begun. A time to come is "<invalid>".
func appendInString(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		switch c {
		case '<':
			b = append(b, `\u003c`...)
		case '>':
			b = append(b, `\u003e`...)
		default:
			b = append(b, c)
		}
	}
	return b
}
