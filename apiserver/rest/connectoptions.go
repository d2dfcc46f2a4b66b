package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// connectionOptions are the options of a connection as an object of their kind, of the query and of the path below the
// subresource. Fields of a query have the names they have in JSON.
func connectionOptions(kind schema.GroupVersionKind, query url.Values, path string) (runtime.Object, error) {
	options, err := codec.Scheme.New(kind)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	fields := reflect.ValueOf(options).Elem()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Type().Field(i).Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		values := query[name]
		if name == "path" {
			values = []string{path}
		}
		if len(values) == 0 {
			continue
		}
		if err := setOption(fields.Field(i).Addr().Interface(), values); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	options.GetObjectKind().SetGroupVersionKind(kind)
	return options, nil
}

// setOption sets a field of options to the values of a query.
func setOption(field any, values []string) error {
	switch field := field.(type) {
	case *string:
		*field = values[0]
	case *bool:
		*field = isTrue(values[0])
	case *[]string:
		*field = values
	case *[]int32:
		for _, list := range values {
			for text := range strings.SplitSeq(list, ",") {
				n, err := strconv.ParseUint(text, 10, 16)
				if err != nil {
					return fmt.Errorf("cannot convert to []int32: %w", err)
				}
				*field = append(*field, int32(n))
			}
		}
	default:
		return fmt.Errorf("options have a field of type %T", field)
	}
	return nil
}

// reconnect is r with the path and the query of options that were asked ones, and the path below the subresource. A proxy
// passes on the query, which is none of its options.
func reconnect(r *http.Request, path string, asked, options runtime.Object) (*http.Request, string, error) {
	if equality.Semantic.DeepEqual(asked, options) {
		return r, path, nil
	}
	query, err := queryparams.Convert(options)
	if err != nil {
		return nil, "", apierrors.NewInternalError(err)
	}
	changed := r.Clone(r.Context())
	if below := reflect.ValueOf(options).Elem().FieldByName("Path"); below.IsValid() {
		base := strings.TrimSuffix(strings.TrimSuffix(r.URL.Path, "/"), "/"+path)
		changed.URL.Path, changed.URL.RawPath = base+below.String(), ""
		return changed, strings.Trim(below.String(), "/"), nil
	}
	changed.URL.RawQuery = query.Encode()
	return changed, path, nil
}
