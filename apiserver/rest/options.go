package rest

import (
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/codec"
)

// parseQuery reads options from a query; an empty query gives the zero options.
func parseQuery(query url.Values, into runtime.Object) error {
	if len(query) == 0 {
		return nil
	}
	if err := internalscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

// checked is the 422 for invalid options.
func checked(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// getOptions refuses what was once asked with export: objects without what the server had set.
func getOptions(query url.Values) (*metav1.GetOptions, error) {
	o := &metav1.GetOptions{}
	if query.Has("export") && isTrue(query.Get("export")) {
		return nil, apierrors.NewBadRequest("the export parameter, deprecated since v1.14, is no longer supported")
	}
	return o, parseQuery(query, o)
}

// isTrue reads a boolean of a query: all but 0 and false is true.
func isTrue(value string) bool { return value != "0" && !strings.EqualFold(value, "false") }

func createOptions(r *http.Request) (*metav1.CreateOptions, error) {
	o := &metav1.CreateOptions{}
	if err := parseQuery(r.URL.Query(), o); err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	return o, checked("CreateOptions", validation.ValidateCreateOptions(o))
}

func updateOptions(r *http.Request) (*metav1.UpdateOptions, error) {
	o := &metav1.UpdateOptions{}
	if err := parseQuery(r.URL.Query(), o); err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	return o, checked("UpdateOptions", validation.ValidateUpdateOptions(o))
}

func patchOptions(r *http.Request, patchType types.PatchType) (*metav1.PatchOptions, error) {
	o := &metav1.PatchOptions{}
	if err := parseQuery(r.URL.Query(), o); err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PatchOptions"))
	return o, checked("PatchOptions", validation.ValidatePatchOptions(o, patchType))
}

// deleteOptions come in the body, or in the query if there is none.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	body, err := codec.ReadBody(r)
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	if len(body) > 0 {
		err = decodeDeleteOptions(r, body, o)
	} else {
		err = parseQuery(r.URL.Query(), o)
	}
	if err != nil {
		return nil, err
	}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	return o, checked("DeleteOptions", validation.ValidateDeleteOptions(o))
}

// decodeDeleteOptions takes the options of any group, as every group has them.
func decodeDeleteOptions(r *http.Request, body []byte, o *metav1.DeleteOptions) error {
	media, err := codec.NegotiateInput(r, true)
	if err != nil {
		return err
	}
	if err := codec.DecodeOptions(body, media, o); err != nil {
		return err
	}
	askedAs(r, o, internalversion.SchemeGroupVersion.WithKind("DeleteOptions")) // kube-apiserver audits its internal version
	return nil
}

// listOptions are those of a list or a watch. watchLists says whether a watch may begin with a list.
func listOptions(query url.Values, watchLists bool) (*internalversion.ListOptions, error) {
	o := &internalversion.ListOptions{}
	if err := parseQuery(query, o); err != nil {
		return nil, err
	}
	internalversion.SetListOptionsDefaults(o, watchLists)
	return o, checked("ListOptions", internalvalidation.ValidateListOptions(o, watchLists))
}

// dryRun reports whether options ask for a dry run: validation has made sure
// that the only possible stage is All.
func dryRun(stages []string) bool { return len(stages) > 0 }
