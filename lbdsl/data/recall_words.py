"""What texts of recall say and ask: those that measure, and those that heal. They have no phrase and no key in common, and
none with `lbdsl.data.needle`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Facts of one sort, how they are said, and how they are asked for; every statement goes with every question.

    `values`: words, or none for numbers. `later`: how another value of a key is said, of which the last counts. The
    statement of a table is its head, and in its last line what a row looks like; {row} in a question is its beginning.
    Passages have no statement, and what is asked stands before their first words.
    """

    questions: tuple[str, ...]
    statements: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(first: str, second: str, between: str = " ") -> tuple[str, ...]:
    return tuple(f"{one}{between}{other}" for one in _words(first) for other in _words(second))


PLACES = _words(
    "bakery library workshop stable cinema harbour chapel museum brewery greenhouse observatory kiosk clinic laundry "
    "quarry theatre tavern pharmacy archive warehouse nursery gallery dairy foundry canteen courthouse boathouse "
    "orchard lighthouse school monastery sawmill vineyard barracks embassy aquarium bathhouse smithy casino hostel"
)
PEOPLE = _words(
    "Agnes Boris Marina Dmitri Elena Viktor Greta Emil Ingrid Jonas Karin Leon Martha Nils Olga Pedro Rosa Stefan Tilda "
    "Ulrich Vera Theo Yvonne Zoltan Astrid Bruno Carmen Edgar Frida Gustav Helga Igor Judith Klaus Ludmila Matteo "
    "Noemi Otto Priya Rafael"
)
CITIES = _words(
    "Munich Chicago Helsinki Warsaw Brussels Budapest Denver Hamburg Boston Krakow Seville Antwerp Bologna Cardiff Dresden "
    "Ghent Hanover Innsbruck Leipzig Malmo Nantes Porto Riga Salzburg Turin Utrecht Valencia Zagreb Bremen Granada"
)
WARES = _words(
    "honey cheese linen copper pepper rope salt timber wool glass coffee leather silk cotton marble butter wheat "
    "cinnamon bricks soap vinegar almonds charcoal garlic"
)

SCORING: Mapping[str, tuple[Topic, ...]] = {
    "numbers": (
        Topic(
            keys=PLACES,
            statements=(
                "The entry code of the {key} is {value}.",
                "Write this down: at the {key} the entry code is {value}.",
                "{value} is the entry code that opens the {key}.",
                "Whoever comes to the {key} types the entry code {value}.",
            ),
            questions=(
                "The entry code of the {key} is",
                "Question: What is the entry code of the {key}?\nAnswer: The entry code is",
                "To open the door of the {key}, type the entry code",
            ),
        ),
        Topic(
            keys=PLACES,
            statements=(
                "The number of crates in the {key} is {value}.",
                "When the crates in the {key} were counted, there were {value}.",
                "{value} crates are stored in the {key}, says the inventory.",
                "In the inventory, the crates of the {key} are given as {value}.",
            ),
            questions=(
                "The number of crates in the {key} is",
                "Question: How many crates are stored in the {key}?\nAnswer: The number of crates is",
                "At the last count, the number of crates in the {key} was",
            ),
        ),
    ),
    "words": (
        Topic(
            keys=PEOPLE,
            values=CITIES,
            statements=(
                "The home town of {key} is {value}.",
                "Everybody knows that {key} comes from {value}.",
                "{value} is the city where {key} was born.",
                "As a child, {key} lived in {value}.",
            ),
            questions=(
                "The home town of {key} is",
                "Question: In which city was {key} born?\nAnswer: {key} was born in",
                "If I remember correctly, {key} comes from",
            ),
        ),
        Topic(
            keys=PLACES,
            values=PEOPLE,
            statements=(
                "The person in charge of the {key} is {value}.",
                "{value} is in charge of the {key}.",
                "For years the {key} has been run by {value}.",
                "If anything breaks in the {key}, call {value}.",
            ),
            questions=(
                "The person in charge of the {key} is",
                "Question: Who runs the {key}?\nAnswer: The {key} is run by",
                "These days the {key} is run by",
            ),
        ),
    ),
    "latest": (
        Topic(
            keys=PLACES,
            statements=(
                "At first, the price of a ticket for the {key} in cents is {value}.",
                "The opening price of a ticket for the {key} is {value} cents.",
                "In January a ticket for the {key} costs {value} cents.",
                "{value} cents is what a ticket for the {key} costs in the beginning.",
            ),
            later=(
                "From now on, the price of a ticket for the {key} in cents is {value}.",
                "The new price of a ticket for the {key} is {value} cents.",
                "Correction: a ticket for the {key} now costs {value} cents.",
                "{value} cents is what a ticket for the {key} costs after the change.",
            ),
            questions=(
                "The latest price of a ticket for the {key} is",
                "Question: What does a ticket for the {key} cost now?\nAnswer: In cents, the price is",
                "After all changes, a ticket for the {key} costs",
            ),
        ),
        Topic(
            keys=PEOPLE,
            values=CITIES,
            statements=(
                "{key} begins the journey in {value}.",
                "The journey of {key} starts in {value}.",
                "On the first day, {key} is in {value}.",
                "{value} is where {key} sets out.",
            ),
            later=(
                "{key} has now travelled on to {value}.",
                "The next stop of {key} is {value}.",
                "Later, {key} is in {value}.",
                "{value} is where {key} arrives next.",
            ),
            questions=(
                "At the end of the journey, {key} is in",
                "Question: Where is {key} now?\nAnswer: {key} is now in",
                "The last stop of {key} is",
            ),
        ),
    ),
    "passage": (
        Topic(
            questions=(
                "To quote from the text above:\n\n",
                "One of the paragraphs above reads:\n\n",
                "The same paragraph again:\n\n",
                "",
            ),
        ),
    ),
    "table": (
        Topic(
            keys=PEOPLE,
            values=WARES,
            statements=(
                "What each customer ordered:\n- {key} ordered {value}",
                "| Customer | Order |\n| --- | --- |\n| {key} | {value} |",
                "customer, order\n{key}, {value}",
                "The orders of this week:\n* {key}: {value}",
            ),
            questions=(
                "In the list of orders we read:\n{row}",
                "Question: What did {key} order?\nAnswer:\n{row}",
                "The customer {key} again:\n{row}",
            ),
        ),
    ),
}
"""By kind; what measures."""

OBJECTS = _pairs(
    "cracked ancient heavy narrow crooked dusty eastern faded frozen golden hollow painted gilded rusty tiny spotted "
    "striped velvet wooden yellow",
    "lantern barrel wagon statue cabinet compass drum fountain kettle locket medal notebook oven parcel piano quilt radio "
    "satchel scarf shovel stove sword trumpet umbrella vase whistle trunk clock carpet easel",
)
FULL_NAMES = _pairs(
    "Adam Bella Carl Diana Erik Fiona George Hanna Ivan Julia Kevin Laura Marcus Nadia Orson Paula Quentin Rachel Simon "
    "Teresa Umberto Violet William Xenia Yusuf Zelda",
    "Abbott Brandt Castillo Dalton Eriksen Foster Garcia Holm Ibarra Jensen Keller Lindgren Moretti Novak Okafor Petrov "
    "Quist Rossi Sato Tanaka Ueda Varga Weber Yilmaz",
)
VILLAGES = _pairs(
    "Brack Dun Elm Fal Gren Hol Kirk Lang Mor Nor Oak Pen Raven Stan Thorn Wal",
    "bury by combe dale field ford ham haven holt ley mere stead ton wick worth gate",
    "",
)
DUTIES = _pairs(
    "morning evening weekend daily weekly holiday night",
    "cooking cleaning driving shopping gardening painting filing sewing fishing teaching",
)

HEALING: Mapping[str, tuple[Topic, ...]] = {
    "numbers": (
        Topic(
            keys=OBJECTS,
            statements=(
                "The serial number on the {key} reads {value}.",
                "Someone engraved the serial number {value} on the {key}.",
                "{value}: that serial number belongs to the {key}.",
                "The {key} carries serial number {value}.",
                "Do not forget that the {key} is listed as item {value}.",
            ),
            questions=(
                "The serial number on the {key} reads",
                "Q: Which serial number does the {key} carry?\nA: Its serial number is",
                "In the catalogue, the {key} is listed as item",
                "Serial number of the {key}:",
            ),
        ),
        Topic(
            keys=FULL_NAMES,
            statements=(
                "You can reach {key} by dialling {value}.",
                "{key}'s telephone extension is {value}.",
                "The extension {value} connects you with {key}.",
                "To talk to {key}, ask the operator for {value}.",
            ),
            questions=(
                "{key}'s telephone extension is",
                "Q: Which extension connects you with {key}?\nA: Ask for",
                "You can reach {key} by dialling",
            ),
        ),
    ),
    "words": (
        Topic(
            keys=FULL_NAMES,
            values=VILLAGES,
            statements=(
                "{key} owns a farm near {value}.",
                "Not far from {value} lies the farm of {key}.",
                "The farm that {key} bought is near {value}.",
                "Everyone in {value} knows the farm of {key}.",
            ),
            questions=(
                "{key} owns a farm near",
                "Q: Near which village is the farm of {key}?\nA: It is near",
                "To visit the farm of {key}, take the road to",
            ),
        ),
        Topic(
            keys=OBJECTS,
            values=FULL_NAMES,
            statements=(
                "The {key} belongs to {value}.",
                "{value} inherited the {key}.",
                "The {key} was a present for {value}.",
                "Nobody but {value} may touch the {key}.",
            ),
            questions=(
                "The {key} belongs to",
                "Q: Whose is the {key}?\nA: It belongs to",
                "The owner of the {key} is called",
            ),
        ),
    ),
    "latest": (
        Topic(
            keys=OBJECTS,
            statements=(
                "The first bid for the {key} was {value} dollars.",
                "Bidding for the {key} opened at {value} dollars.",
                "{value} dollars were offered early for the {key}.",
                "An early offer for the {key} came to {value} dollars.",
            ),
            later=(
                "Another bidder offered {value} dollars for the {key}.",
                "The bid for the {key} then went to {value} dollars.",
                "{value} dollars, called someone who wanted the {key}.",
                "Then the offer for the {key} became {value} dollars.",
            ),
            questions=(
                "The final bid for the {key}, in dollars, was",
                "Q: What was the last offer for the {key} in dollars?\nA: It was",
                "In dollars, the {key} was finally sold for",
            ),
        ),
        Topic(
            keys=OBJECTS,
            values=VILLAGES,
            statements=(
                "The {key} was made in {value}.",
                "They first kept the {key} in {value}.",
                "Originally the {key} stood in {value}.",
                "In {value} the {key} was seen for the first time.",
            ),
            later=(
                "The {key} was shipped to {value} afterwards.",
                "After that they kept the {key} in {value}.",
                "Somebody then took the {key} to {value}.",
                "In {value} the {key} was seen again.",
            ),
            questions=(
                "The {key} can today be found in",
                "Q: Where was the {key} taken last?\nA: It was taken to",
                "Most recently the {key} was in",
            ),
        ),
    ),
    "passage": (
        Topic(
            questions=(
                "As it says further up:\n\n",
                "Once more, word for word:\n\n",
                "Let us read that part a second time:\n\n",
                "Above we read:\n\n",
            ),
        ),
    ),
    "table": (
        Topic(
            keys=FULL_NAMES,
            values=DUTIES,
            statements=(
                "Who does what:\n{key} - {value}",
                "| Name | Duty |\n|---|---|\n| {key} | {value} |",
                "name; duty\n{key}; {value}",
                "The plan of duties:\n{key} takes {value}",
            ),
            questions=(
                "In the plan of duties, {key} takes",
                "Q: Which duty has {key}?\nA:",
                "Look at the line of {key}:\n{row}",
                "Beside that name we find:\n{row}",
            ),
        ),
        Topic(
            keys=FULL_NAMES,
            statements=(
                "Points after the game:\n{key}: {value}",
                "player - points\n{key} - {value}",
                "| Player | Points |\n|---|---|\n| {key} | {value} |",
                "Results of the players\n+ {key} scored {value}",
            ),
            questions=(
                "According to the results, {key} scored",
                "Q: How many points has {key}?\nA:",
                "Points of {key}:",
                "The line of that player:\n{row}",
            ),
        ),
    ),
}
"""By kind; what heals."""
