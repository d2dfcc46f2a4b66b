package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// errChanged is what a client reads whose write is based on an old object.
var errChanged = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// fromStore gives the errors of the store their meaning for clients. Errors
// that have one already stay as they are.
func fromStore(err error, r *resource.Resource, name string) error {
	var expired *store.ExpiredError
	var future *store.FutureError
	var unwritten *store.EncryptError
	switch {
	case err == nil:
		return nil
	case isStatus(err):
		return err
	case errors.Is(err, store.ErrNotFound):
		if problems := content.IsPathSegmentName(name); len(problems) > 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", name, strings.Join(problems, ";")))
		}
		return apierrors.NewNotFound(r.GR(), name)
	case errors.Is(err, store.ErrExists):
		return apierrors.NewAlreadyExists(r.GR(), name)
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(r.GR(), name, errChanged)
	case errors.Is(err, store.ErrTooLarge):
		return errTooLarge
	case errors.As(err, &expired):
		status := apierrors.NewResourceExpired(expired.Error())
		status.ErrStatus.Continue = expired.Continue
		return status
	case errors.Is(err, store.ErrExpired):
		return apierrors.NewResourceExpired("The resourceVersion for the provided watch is too old.")
	case errors.As(err, &future):
		return tooLargeVersion(future)
	case errors.Is(err, store.ErrUnreadable):
		return unreadable(err)
	case errors.As(err, &unwritten):
		return apierrors.NewInternalError(unwritten)
	case errors.Is(err, store.ErrInvalidVersion):
		return apierrors.NewBadRequest(err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	}
	return err
}

// errTooLarge has no reason, as kube-apiserver's has none.
var errTooLarge = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: store.ErrTooLarge.Error(),
}}

// tooLargeVersion is the error for a resourceVersion that is not there yet;
// reflectors know its cause and try again.
func tooLargeVersion(err *store.FutureError) error {
	status := apierrors.NewTimeoutError(err.Error(), 1)
	status.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return status
}

// unreadable is the error for a request that would have to read an object that
// cannot be decoded (KEP-3926).
func unreadable(err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonStoreReadError, Message: err.Error(),
	}}
}

func isStatus(err error) bool {
	_, ok := err.(apierrors.APIStatus)
	return ok || errors.As(err, new(apierrors.APIStatus))
}

// ToStatus is the Status object that answers with err, of bounded size. Errors
// that are not of the API are 500.
func ToStatus(err error) *metav1.Status {
	var api apierrors.APIStatus
	if !errors.As(err, &api) {
		return &metav1.Status{
			TypeMeta: statusKind, Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: Short(err.Error()),
		}
	}
	status := api.Status()
	shorten(&status)
	if status.Status == "" {
		status.Status = metav1.StatusFailure
	}
	if status.Code < http.StatusOK || status.Code > 999 { // none, or none that HTTP could carry: others say them too
		status.Code = http.StatusInternalServerError
	}
	status.TypeMeta = statusKind
	return &status
}

var statusKind = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}

// errorTime is how long a client may take to read why it got nothing. Until
// then its request is in memory.
const errorTime = 5 * time.Second

// WriteError answers with err as a Status in the negotiated encoding.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	status := ToStatus(err)
	request.Fail(r.Context(), err)
	// What is short is soon read. In process there is no deadline to set.
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(errorTime))
	if errors.Is(r.Context().Err(), context.Canceled) {
		// Hardly anybody is there to read it. Who has only ended its own side must not take it for a success.
		w.WriteHeader(int(status.Code))
		return
	}
	out, negotiateErr := codec.Negotiate(r, codec.Offer{Protobuf: true})
	if negotiateErr != nil {
		out = codec.Output{Pretty: true} // a client that cannot read JSON is probably a person
	}
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	if status.Code == http.StatusNoContent || status.Code == http.StatusNotModified {
		w.WriteHeader(int(status.Code))
		return
	}
	a := answer{code: int(status.Code), out: out, status: status, encode: func(out codec.Output) (codec.Body, error) { return out.Encode(status) }}
	if err := a.send(w, r); err != nil {
		http.Error(w, fmt.Sprintf("%s: %s", status.Reason, status.Message), int(status.Code))
	}
}
