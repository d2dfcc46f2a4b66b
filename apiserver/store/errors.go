package store

import (
	"errors"
	"fmt"
)

// Errors the store returns, possibly wrapped.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("object not found")
	// ErrExists: an object to be created is there already.
	ErrExists = errors.New("object already exists")
	// ErrConflict: the object is not at the revision the caller expected.
	ErrConflict = errors.New("object has been changed")
	// ErrTooLarge: an object is larger when encoded than the storage takes. The
	// text is that of Kubernetes, by which clients know it.
	ErrTooLarge = errors.New("etcdserver: request is too large")
	// ErrExpired: a revision or a place in the feed is older than the history
	// kept. Lists give an *ExpiredError.
	ErrExpired = errors.New("resource version is too old")
	// ErrFuture: the revision asked for was not reached within three seconds.
	// It is always a *FutureError.
	ErrFuture = errors.New("resource version is too large")
	// ErrInvalidVersion: a resourceVersion or continue token is malformed, or
	// they do not go together. It is always an *InvalidError.
	ErrInvalidVersion = errors.New("invalid resource version")
	// ErrUnreadable: an object is stored that cannot be decoded. It is always
	// an *UnreadableError.
	ErrUnreadable = errors.New("stored object is unreadable")
	// ErrUnknownResource: the resource was never added, or was removed.
	ErrUnknownResource = errors.New("resource is not stored here")
)

// ExpiredError is ErrExpired of a list. Continue, if not empty, is a token
// that goes on where the expired one stood, at the newest revision: the pages
// together are then no consistent list.
type ExpiredError struct {
	Continue string
}

func (e *ExpiredError) Error() string {
	if e.Continue == "" {
		return "The resourceVersion for the provided list is too old."
	}
	return "The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response " +
		"to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - " +
		"objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
}

// Is makes errors.Is(err, ErrExpired) true.
func (e *ExpiredError) Is(target error) bool { return target == ErrExpired }

// FutureError says which revision was asked for and which is the newest.
type FutureError struct {
	Asked, Current int64
}

func (e *FutureError) Error() string {
	return fmt.Sprintf("Too large resource version: %d, current: %d", e.Asked, e.Current)
}

// Is makes errors.Is(err, ErrFuture) true.
func (e *FutureError) Is(target error) bool { return target == ErrFuture }

// InvalidError says what is wrong with a resourceVersion or continue token, in
// words for the client.
type InvalidError struct {
	Message string
}

func (e *InvalidError) Error() string { return e.Message }

// Is makes errors.Is(err, ErrInvalidVersion) true.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalidVersion }

// UnreadableError names the object that cannot be decoded and says why.
type UnreadableError struct {
	Key   string // in the backend
	Cause error
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("object %s cannot be read: %v", e.Key, e.Cause)
}

func (e *UnreadableError) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, ErrUnreadable) true.
func (e *UnreadableError) Is(target error) bool { return target == ErrUnreadable }
